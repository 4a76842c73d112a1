"""The setup script and the pins, with fake tools: no download, no compiler, a few seconds."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.launcher import wait_for

ROOT = Path(__file__).parents[2]
REAL_TOOLS = (
    "awk bash cat chmod cp df dirname env find grep head id make mkdir mv nproc rm rmdir sed "
    "sha256sum sleep tail touch"
)

# Replaces python3, the environment's python and pip; records the calls of pip.
PYTHON = f"""#!/bin/bash
case "$1 $2" in
    "-V "*) echo "Python ${{FAKE_VERSION:-3.11.7}}" ;;
    "-m venv")
        mkdir -p "$3/bin"
        cp "$0" "$3/bin/python"
        echo "#!$3/bin/python" >"$3/bin/pip" ;;
    "-m pip")
        echo "$*" >>"$FAKE_RECORD"
        case "$*" in
            *"${{FAKE_PIP_FAILS:-nothing}}"*) echo "no space left on device"; exit 1 ;;
            *"${{FAKE_PIP_HANGS:-nothing}}"*) exec sleep 60 ;;
            *--wheel-dir*) while [ "$1" != --wheel-dir ]; do shift; done
                mkdir -p "$2"; touch "$2/horovod-0.28.1-cp311-cp311-linux_x86_64.whl" ;;
            *horovod*.whl)
                echo "import sys" >"${{0%/*}}/horovodrun"; chmod +x "${{0%/*}}/horovodrun" ;;
        esac ;;
    "-c "*version_info*) [[ "${{FAKE_VERSION:-3.11.7}}" == 3.1[1-9]* ]] ;;
    "-c "*ensurepip*) [ -z "${{FAKE_NO_VENV:-}}" ] ;;
    "-c "*Python.h*) [ -z "${{FAKE_NO_HEADERS:-}}" ] ;;
    "-c "*torch.__version__*) echo "${{FAKE_TORCH:-2.13.0+cpu}}" ;;
    "-c "*torch.version.cuda*) exit 1 ;;
    "-c "*purelib*) echo "${{0%/*}}" ;;
    "-c "*horovod*) [ -x "${{0%/*}}/horovodrun" ] ;;
    *) exec {sys.executable} "$@" ;;
esac
"""


class Checkout:
    """A copy of the files that the setup reads, on a machine with fake tools."""

    def __init__(self, home: Path):
        self.root, self.tools, self.record = home / "check out", home / "tools", home / "pip-calls"
        for folder in (self.root / "tools", self.tools):
            folder.mkdir(parents=True)
        for name in ("Makefile", "setup.cfg", "constraints.txt", "tools/setup.sh", "tools/cxx17"):
            shutil.copy(ROOT / name, self.root / name)
        for name in REAL_TOOLS.split():
            (self.tools / name).symlink_to(shutil.which(name) or f"/nowhere/{name}")
        self.tool("python3", PYTHON)
        self.tool("c++", "#!/bin/bash\nexit 0\n")
        self.environ = {"PATH": str(self.tools), "HOME": str(home), "FAKE_RECORD": str(self.record)}

    def tool(self, name: str, text: str) -> None:
        """Add a program to PATH."""
        (self.tools / name).write_text(text)
        (self.tools / name).chmod(0o755)

    def start(self, **environ: str) -> subprocess.Popen:
        """Start a setup."""
        environ = self.environ | environ
        command = [self.root / "tools/setup.sh"]
        return subprocess.Popen(
            command, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def setup(self, **environ: str) -> tuple[int, list[str]]:
        """Exit code and output lines of one setup."""
        process = self.start(**environ)
        _, errors = process.communicate(timeout=300)
        return process.returncode, errors.splitlines()

    def pip_calls(self, word: str = "") -> int:
        """The number of pip calls so far that contain `word`."""
        return self.record.read_text().count(word or "-m pip") if self.record.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.mark.parametrize(
    ("fault", "found", "fix"),
    [
        ({"FAKE_VERSION": "3.10.2"}, "Python 3.10.2", "install python3.11"),
        (
            {"PYTHON": "python3", "FAKE_VERSION": "3.9.2"},
            "3.11 or newer (Python 3.9.2)",
            "name another one",
        ),
        ({"PYTHON": "/no/python"}, "PYTHON=/no/python", "name another one"),
        ({"FAKE_NO_VENV": "1"}, "no venv module", "install python3-venv"),
        ({"CXX": "no-such-compiler"}, "CXX=no-such-compiler", "install g++"),
        ({"DISTSENT_MIN_FREE_GB": "9999999"}, "GB free in", "free some space"),
        ({"DEVICE": "tpu"}, "DEVICE=tpu", "auto, cpu, cuda"),
    ],
)
def test_a_missing_requirement_is_reported_in_one_line(checkout, fault, found, fix):
    code, lines = checkout.setup(**fault)
    assert code == 2
    assert len(lines) == 1 and found in lines[0] and fix in lines[0], lines
    assert not (checkout.root / ".venv").exists() and checkout.pip_calls() == 0


BROKEN_COMPILER = "#!/bin/bash\necho 'optional: No such file' >&2\nexit 1\n"


@pytest.mark.parametrize(
    ("compiler", "env", "reason"),
    [
        ("", {}, "no C++17 compiler (tried c++, g++, clang++): install g++"),
        (BROKEN_COMPILER, {}, "no C++17 compiler"),
        ("#!/bin/bash\n", {"FAKE_NO_HEADERS": "1"}, "(Python.h): install python3-dev"),
        ("#!/bin/bash\n", {"WITHOUT_HOROVOD": "1"}, "WITHOUT_HOROVOD is set"),
    ],
)
def test_without_a_compiler_everything_but_horovod_is_installed(checkout, compiler, env, reason):
    (checkout.tools / "c++").unlink()
    if compiler:
        checkout.tool("c++", compiler)
    code, lines = checkout.setup(**env)
    assert code == 0 and reason in lines[-1] and "workers use torch's transport" in lines[-1]
    assert checkout.pip_calls("--editable") == 1 and not checkout.pip_calls("wheel --no-input")
    assert checkout.setup(**env) == (0, []), "it is not repeated"
    checkout.tool("c++", "#!/bin/bash\nexit 0\n")
    assert checkout.setup()[0] == 0 and checkout.pip_calls("wheel --no-input") == 1, "it came later"


def test_without_a_compiler_a_wheel_that_was_built_before_is_used(checkout):
    checkout.setup()
    shutil.rmtree(checkout.root / ".venv")
    (checkout.tools / "c++").unlink()
    code, lines = checkout.setup()
    assert code == 0 and lines[-1].startswith("setup: done: .venv has torch, Horovod with")


def test_a_missing_python_is_reported_in_one_line(checkout):
    (checkout.tools / "python3").unlink()
    code, lines = checkout.setup()
    assert (code, len(lines)) == (2, 1)
    assert "no python3 at all" in lines[0]


def test_make_train_uses_horovod_or_says_that_it_does_not(checkout):
    """Its last command is printed here, and not run."""
    (checkout.root / "tools/show_run.py").write_text("import sys; print(*sys.argv[1:])")
    train = {"cwd": checkout.root, "env": checkout.environ, "capture_output": True, "text": True}
    done = subprocess.run(["make", "train"], **train)
    assert done.stdout == "horovodrun -np 4 python -m distsent.train\n", done.stderr
    shutil.rmtree(checkout.root / ".venv")
    shutil.rmtree(checkout.root.parent / ".cache")
    (checkout.tools / "c++").unlink()
    for _ in range(2):
        done = subprocess.run(["make", "train", "NP=2", "JOB=a.toml"], **train)
        command = "python -m distsent.launch --nproc-per-node 2 -m distsent.train a.toml\n"
        assert done.stdout == command, done.stderr
        said = done.stderr.splitlines()
        assert said[-1].startswith("train: no Horovod in .venv, so workers use torch's transport")
    assert len(said) == 1, "the setup has nothing to say the second time"


def test_a_finished_setup_is_recognized(checkout):
    code, lines = checkout.setup()
    assert code == 0 and "done" in lines[-1], lines
    calls = checkout.pip_calls()
    assert checkout.setup() == (0, [])
    assert checkout.pip_calls() == calls


@pytest.mark.parametrize("name", ["constraints.txt", "setup.cfg", "tools/setup.sh", "tools/cxx17"])
def test_changed_requirements_are_installed_again_but_horovod_is_kept(checkout, name):
    checkout.setup()
    calls, builds = checkout.pip_calls(), checkout.pip_calls("wheel --no-input")
    with (checkout.root / name).open("a") as file:
        file.write("# another line\n")
    assert checkout.setup()[0] == 0
    assert checkout.pip_calls() > calls
    assert checkout.pip_calls("wheel --no-input") == builds == 1


def test_another_torch_gets_another_horovod(checkout):
    checkout.setup()
    (checkout.root / ".venv/.setup-stamp").unlink()
    assert checkout.setup(FAKE_TORCH="2.14.0+cpu")[0] == 0
    assert checkout.pip_calls("wheel --no-input") == 2
    wheels = Path(checkout.environ["HOME"]).glob(".cache/distsent/wheels/*/horovod-*.whl")
    assert len(list(wheels)) == 2


def test_a_cached_wheel_is_used_by_the_next_checkout(checkout):
    checkout.setup()
    shutil.rmtree(checkout.root / ".venv")
    code, lines = checkout.setup()
    assert code == 0 and any("Horovod from" in line for line in lines)
    assert checkout.pip_calls("wheel --no-input") == 1


def test_a_read_only_home_costs_only_the_cache(checkout):
    assert checkout.setup(XDG_CACHE_HOME="/proc/no")[0] == 0
    assert list(checkout.root.glob(".venv/wheels/horovod-*.whl"))


def test_a_failed_step_shows_the_end_of_its_log_and_is_repeated(checkout):
    code, lines = checkout.setup(FAKE_PIP_FAILS="wheel --no-input")
    assert code == 1
    assert any("building Horovod failed" in line for line in lines)
    assert any("no space left on device" in line for line in lines)
    assert str(checkout.root / ".venv/setup.log") in lines[-1]
    assert checkout.setup()[0] == 0


@pytest.mark.parametrize(("step", "kept"), [("--editable", False), ("wheel --no-input", True)])
def test_an_interrupted_setup_is_resumed(checkout, step, kept):
    process = checkout.start(FAKE_PIP_HANGS=step)
    wait_for(lambda: checkout.pip_calls(step) > 0, 120)
    (checkout.root / ".venv/witness").touch()
    os.killpg(process.pid, 9)
    process.wait()
    process.stderr.close()
    assert checkout.setup()[0] == 0
    # An environment that pip was writing to is created again.
    assert (checkout.root / ".venv/witness").exists() is kept
    assert checkout.setup() == (0, [])


def test_two_setups_at_once_do_the_work_once(checkout):
    both = [checkout.start(), checkout.start()]
    for process in both:
        process.communicate(timeout=300)
    assert [process.returncode for process in both] == [0, 0]
    assert checkout.pip_calls("--editable") == 1
    assert checkout.pip_calls("wheel --no-input") == 1


def test_a_moved_environment_is_created_again(checkout, tmp_path):
    checkout.setup()
    moved = tmp_path / "elsewhere"
    checkout.root.rename(moved)
    checkout.root = moved
    code, lines = checkout.setup()
    assert code == 0 and lines
    assert str(moved) in (moved / ".venv/bin/pip").read_text()


def canonical(name: str) -> str:
    """A package name, normalized as package indexes do."""
    return re.sub("[-_.]+", "-", name).lower()


def pinned() -> list[str]:
    """Package names in constraints.txt; every line must be an exact pin."""
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.+]+", line), line
    return [canonical(line.split("==")[0]) for line in lines]


def test_every_constraint_is_an_exact_pin():
    names = pinned()
    assert len(names) > 50
    assert len(names) == len(set(names))


def requirements() -> dict[str, list[str]]:
    """Extra of setup.cfg (empty: always needed) -> its requirements."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    groups = {"": config["options"]["install_requires"], **config["options.extras_require"]}
    return {group: [line for line in text.splitlines() if line] for group, text in groups.items()}


def test_horovod_is_never_a_hard_requirement_and_torch_never_a_range():
    groups = requirements()
    assert {"lora", "plots", "dev", "mpi"} <= set(groups)
    assert not [line for line in groups[""] if "horovod" in line or "mpi" in line]
    for line in [line for lines in groups.values() for line in lines]:
        assert not re.match(r"torch\W", line), (
            f"{line}: a range takes the newest build with gigabytes of CUDA"
        )


def test_every_requirement_is_pinned():
    """Those of trackers, which have an environment of their own, in its script."""
    trackers = re.findall(r"([a-z]+)==[0-9.]+", (ROOT / "tools" / "trackers.sh").read_text())
    for line in [line for lines in requirements().values() for line in lines]:
        assert canonical(re.split("[<>=]", line)[0]) in [*pinned(), *trackers], line


def test_every_installed_package_is_pinned():
    """In an environment of the setup script."""
    if not (Path(sys.prefix) / ".setup-stamp").exists():
        pytest.skip("not in an environment of tools/setup.sh")
    # Not sys.path: setuptools adds packages of its own to it once something imports it.
    inside = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found = {canonical(each.name) for each in distributions(path=inside)} - {"distsent"}
    unpinned = found - set(pinned())
    # torch itself fixes the versions of its CUDA packages.
    assert not [name for name in unpinned if not name.startswith(("nvidia-", "cuda-"))]
