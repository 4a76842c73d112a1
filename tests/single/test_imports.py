"""Who may import whom: read from the package's own imports, so that the house stays as it is drawn."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "distsent"
DOORS = {"train", "evaluate", "predict", "prepare", "report", "doctor"}
LEAVES = {"disk", "errors", "__init__"}
ALLOWED = {  # room -> rooms below it that it may import; every room may import the leaves
    "comm": set(),
    "door": set(),
    "job": set(),
    "corpus": {"job"},
    "model": {"corpus", "job"},
    "scoring": {"corpus", "model"},
    "results": {"scoring"},
    "run": {"comm", "corpus", "job", "model", "results", "scoring"},
    "training": {"comm", "corpus", "job", "model", "results", "run", "scoring"},
    "k8s": {"door", "job", "run"},
}


def room(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def imports(file: Path) -> set[str]:
    """Every module of distsent, and every foreign package, that a file imports for more than a type hint."""
    found: set[str] = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(file.read_text(encoding="utf-8")))
    return found


FILES = {file: imports(file) for file in sorted(PACKAGE.rglob("*.py"))}


def own_room(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_rooms_import_only_what_lies_below_them() -> None:
    wrong = []
    for file, names in FILES.items():
        here = own_room(file)
        if here in DOORS | LEAVES:
            continue
        for name in names:
            there = room(name) if name.startswith("distsent.") else None
            if there and there not in ALLOWED[here] | LEAVES | {here, "__version__", "fingerprint"}:
                wrong.append(f"{file.relative_to(PACKAGE)} imports {name}")
    assert not wrong, wrong


def test_nobody_imports_a_door() -> None:
    assert not [
        (str(file), name) for file, names in FILES.items() for name in names if name.startswith("distsent.") and room(name) in DOORS
    ]


def test_only_comm_imports_horovod() -> None:
    users = {own_room(file) for file, names in FILES.items() if any(name.split(".")[0] == "horovod" for name in names)}
    assert users <= {"comm", "doctor"}  # the doctor looks at what is installed


def test_rooms_do_not_import_in_circles() -> None:
    below = {here: ALLOWED[here] for here in ALLOWED}
    order: list[str] = []
    while below:
        free = sorted(here for here, rooms in below.items() if rooms <= set(order))
        assert free, f"a circle among {sorted(below)}"
        order += free
        below = {here: rooms for here, rooms in below.items() if here not in free}


def test_a_file_holds_one_noun() -> None:
    long = {str(f.relative_to(PACKAGE)): n for f in FILES if (n := len(f.read_text(encoding="utf-8").splitlines())) > 300}
    assert not long


def test_importing_distsent_loads_nothing_heavy() -> None:
    code = "import sys, distsent, distsent.job; print(sorted({'torch', 'numpy', 'transformers', 'horovod'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
