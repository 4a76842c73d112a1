"""The layers of the package: read from its own imports, so that the layout stays as documented."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "distsent"
ENTRY_POINTS = {
    "train", "evaluate", "predict", "prepare", "report", "audit", "doctor", "next_action", "launch",
    "plan", "export", "sweep",
}  # fmt: skip
BOTTOM = {"__init__", "errors", "exit_policy", "machine_errors", "storage", "lock", "versions"}
BELOW = {  # subpackage -> what it may import, beside the bottom
    "distributed": set(),
    "job": set(),
    "cli": {"distributed", "job"},
    "formats": {"job"},
    "data": {"formats", "job"},
    "batching": {"data"},
    "operators": {"batching"},
    "model": {"batching", "data", "job", "operators"},
    "runtime": {"distributed", "job", "model", "operators"},
    "tracking": {"distributed", "job", "runtime"},
    "evaluation": {"batching", "data", "distributed", "formats", "job", "model", "runtime"},
    "reporting": {"data", "evaluation", "job", "runtime"},
    "training": {
        "batching", "data", "distributed", "evaluation", "job", "model", "operators", "reporting",
        "runtime", "tracking",
    },
    "exporting": {
        "batching", "data", "distributed", "evaluation", "model", "reporting", "runtime",
    },
    "planning": {
        "batching", "cli", "distributed", "job", "model", "reporting", "runtime", "training",
    },
    "search": {"data", "job", "reporting", "runtime"},
    "pods": {"distributed", "job", "runtime"},
    "k8s": {"cli", "job", "pods", "runtime"},
}  # fmt: skip
# The folders of a subpackage, from the bottom up. Each imports from those before it, and from
# modules beside it that do not need it
FOLDERS = {
    "formats": ["delimited", "json"],
    "data": ["labels", "layouts", "tokens"],
    "runtime": ["heartbeat"],
    "evaluation": ["tasks"],
    "reporting": ["tasks"],
}
LONGEST_FILE, LONGEST_FUNCTION, MOST_ARGUMENTS = 300, 60, 8  # lines, lines, constructor arguments


@dataclass(frozen=True)
class Module:
    path: Path
    tree: ast.Module

    @property
    def name(self) -> str:
        return self.path.relative_to(PACKAGE).with_suffix("").as_posix()

    @property
    def layer(self) -> str:
        return self.name.split("/")[0]

    @property
    def folder(self) -> str:
        """That of a subpackage; empty for the modules beside these folders."""
        return self.name.split("/")[1] if self.name.count("/") == 2 else ""

    def imports(self) -> set[str]:
        """Modules that this one imports for more than a type hint."""
        return set(imports(self.tree))


def imports(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from imports(child)


MODULES = [
    Module(path, ast.parse(path.read_text(encoding="utf-8")))
    for path in sorted(PACKAGE.rglob("*.py"))
]


def own_imports(module: Module) -> Iterator[tuple[str, str]]:
    """(layer, dotted name) of each import from the package itself."""
    for name in module.imports():
        if name.startswith("distsent."):
            layer = name.split(".")[1]
            yield ("__init__" if layer in ("__version__", "fingerprint") else layer), name


def test_imports_point_down() -> None:
    wrong = []
    for module in MODULES:
        allowed = BOTTOM | {module.layer} | BELOW.get(module.layer, set())
        if module.layer not in ENTRY_POINTS:
            wrong += [
                f"{module.name} imports {name}"
                for layer, name in own_imports(module)
                if layer not in allowed
            ]
    assert not wrong, wrong


def test_the_bottom_imports_only_itself() -> None:
    for module in MODULES:
        if module.layer in BOTTOM:
            assert {layer for layer, _ in own_imports(module)} <= BOTTOM, module.name


def test_nobody_imports_an_entry_point() -> None:
    assert not [
        (module.name, name)
        for module in MODULES
        for layer, name in own_imports(module)
        if layer in ENTRY_POINTS
    ]


def test_folders_of_subpackages_have_an_order() -> None:
    there: dict[str, set[str]] = {}
    wrong = []
    for module in MODULES:
        if not module.folder:
            continue
        there.setdefault(module.layer, set()).add(module.folder)
        order = FOLDERS.get(module.layer, [])
        above = order[order.index(module.folder) + 1 :] if module.folder in order else []
        found = [name.split(".")[2] for layer, name in own_imports(module) if layer == module.layer]
        wrong += [f"{module.name} imports {name}" for name in found if name in above]
    assert there == {layer: {*folders} for layer, folders in FOLDERS.items()}
    assert not wrong, wrong


@pytest.mark.parametrize("nodes", ["modules", "folders"])
def test_nothing_imports_in_cycles(nodes: str) -> None:
    """Neither modules nor, where a folder of a subpackage counts as one module, these folders."""
    dotted = {f"distsent.{module.name.replace('/', '.')}": module for module in MODULES}

    def node_of(name: str) -> str:
        module = dotted[name]
        inside = nodes == "folders" and module.folder
        return f"{module.layer}/{module.folder}" if inside else module.name

    graph: dict[str, set[str]] = {}
    for name, module in dotted.items():
        found = {n if n in dotted else n.rpartition(".")[0] for n in module.imports()}
        needed = {node_of(n) for n in found & dotted.keys()}
        graph.setdefault(node_of(name), set()).update(needed - {node_of(name)})
    while graph:
        leaves = {name for name, needed in graph.items() if not needed & set(graph)}
        assert leaves, f"a cycle among {sorted(graph)}"
        graph = {name: needed for name, needed in graph.items() if name not in leaves}


def test_only_the_transport_imports_horovod() -> None:
    users = {
        module.name
        for module in MODULES
        if any(name.split(".")[0] == "horovod" for name in module.imports())
    }
    assert users == {"distributed/horovod"}


def test_files_are_short() -> None:
    lengths = {m.name: len(m.path.read_text(encoding="utf-8").splitlines()) for m in MODULES}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_functions_are_short() -> None:
    long = {}
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > LONGEST_FUNCTION:
                    long[f"{module.name}.{node.name}"] = lines
    assert long == {}


def is_frozen_dataclass(node: ast.ClassDef) -> bool:
    return any(
        "dataclass" in (text := ast.dump(d)) and "frozen" in text for d in node.decorator_list
    )


def constructor_arguments(node: ast.ClassDef) -> int:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return len(item.args.args) - 1 + len(item.args.kwonlyargs)
    if any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list):
        return sum(
            isinstance(item, ast.AnnAssign) and "init=False" not in ast.unparse(item)
            for item in node.body
        )
    return 0


def test_constructors_take_few_arguments() -> None:
    """Frozen dataclasses that only hold data may have more."""
    assert {
        f"{module.name}.{node.name}": count
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and not is_frozen_dataclass(node)
        if (count := constructor_arguments(node)) > MOST_ARGUMENTS
    } == {}


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_pages_name_files_that_exist(page: str) -> None:
    """Paths in backticks and links; inside the package its own name is left out."""
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|sh))`", text))
    named |= {link.removeprefix("../") for link in re.findall(r"\]\(([\w./-]+)\)", text)}
    places = (ROOT, PACKAGE, ROOT / "docs")
    assert not [name for name in named if not any((place / name).exists() for place in places)]


def test_the_tree_in_the_readme_names_every_subpackage_and_folder() -> None:
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    listed = set(re.findall(r"([\w.-]+)/(?=\s)", tree))
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    top = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    assert (
        top | {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} <= listed
    )


def test_importing_distsent_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "transformers", "horovod"}
    code = f"import sys, distsent, distsent.job; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
