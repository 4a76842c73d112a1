"""`distsent.launch`: its options, the variables of its workers, their signals and exit codes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from distsent import launch
from distsent.errors import FAILED, UserError
from tests.launcher import LAUNCHER_VARIABLES, ROOT

PET = {
    "PET_NNODES": "2", "PET_NPROC_PER_NODE": "3", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a",
    "PET_MASTER_PORT": "29500",
}  # fmt: skip
NODES = ["--nnodes", "2", "--master-addr", "a", "--master-port", "5", "train.py"]
SHOW = """
import os
names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR".split()
line = " ".join(os.environ[name] for name in names)
os.write(1, f"{line}{os.linesep}".encode())
"""
LAUNCH = "import sys; from distsent import cli, launch; launch.PATIENCE = 1.0; cli.run(launch.main)"


def environment(**more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
    return clean | {"PYTHONPATH": str(ROOT)} | more


def start(
    tmp_path: Path, program: str, *words: str, above: tuple[str, ...] = (), **env: str
) -> subprocess.Popen[str]:
    """A node whose workers run `program`; `above`: a command that starts the launcher."""
    file = tmp_path / "program.py"
    file.write_text(program)
    command = [*above, sys.executable, "-c", LAUNCH, *words, str(file)]
    return subprocess.Popen(
        command, env=environment(**env), stdout=-1, stderr=-1, text=True, start_new_session=True
    )


@pytest.mark.parametrize(
    ("words", "env", "expected"),
    [
        (["train.py"], {}, (1, 1, 0)),
        (["--nproc-per-node", "4", "-m", "distsent.train", "a.toml"], {}, (1, 4, 0)),
        (["--nproc_per_node=4", "train.py"], {}, (1, 4, 0)),
        (["train.py"], PET, (2, 3, 1)),
        (["--node-rank", "0", "train.py"], PET, (2, 3, 0)),
        (["--nproc-per-node", "cpu", "train.py"], {}, (1, len(os.sched_getaffinity(0)), 0)),
    ],
)
def test_options_and_variables_are_those_of_torchrun(
    words: list[str], env: dict[str, str], expected: tuple[int, int, int]
) -> None:
    found = launch.parse(words, env)
    assert (found.nnodes, found.nproc_per_node, found.node_rank) == expected


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "which program? -m distsent.train"),
        (["--nproc-per-node", "many", "train.py"], "--nproc-per-node many: expected a number"),
        (["--nnodes", "1:4", "train.py"], "--nnodes 1:4: expected a number; workers that come and"),
        (["--nproc-per-node", "0", "train.py"], "each node has a worker"),
        (["--node-rank", "2", *NODES], "--node-rank 2 of --nnodes 2"),
        (["--nnodes", "2", "train.py"], "several nodes: set --master-addr"),
        (["--max-restarts", "3", "train.py"], "unrecognized"),
        (["--master-port", "http", "train.py"], "--master-port http: expected a number; --help"),
        (["--master-port", "65536", "train.py"], "--master-port 65536: expected a port, 1 to"),
        (["--master-port", "0", "train.py"], "--master-port 0: expected a port, 1 to 65535"),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        launch.parse(words, {})
    assert line in str(caught.value) and len(caught.value.lines) == 1


def test_workers_get_the_variables_of_torchrun(tmp_path: Path) -> None:
    alone, _ = start(tmp_path, SHOW, "--nproc-per-node", "2").communicate(timeout=60)
    assert sorted(alone.splitlines()) == ["0 2 0 2 127.0.0.1", "1 2 1 2 127.0.0.1"]
    second, _ = start(tmp_path, SHOW, **PET).communicate(timeout=60)
    assert sorted(second.splitlines()) == ["3 6 0 3 a", "4 6 1 3 a", "5 6 2 3 a"]


@pytest.mark.parametrize(
    ("program", "code", "line"),
    [
        ("", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit(0 if rank else 2)", 2, ""),
        # A worker is killed, the other one notices and ends with the run's code.
        ("rank and os.kill(os.getpid(), 9); time.sleep(0.3); sys.exit(1)", 1, "SIGKILL"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL"),
        # One fails and the other one hangs: it is killed after PATIENCE.
        ("sys.exit(1) if rank else time.sleep(60)", 1, ""),
    ],
)
def test_it_ends_with_the_code_of_the_run(
    tmp_path: Path, program: str, code: int, line: str
) -> None:
    head = "import os, sys, time\nrank = int(os.environ['RANK'])\n"
    with start(tmp_path, head + program, "--nproc-per-node", "2") as node:
        _, errors = node.communicate(timeout=30)
    assert node.returncode == code and line in errors


def test_it_ends_with_that_code_if_its_caller_ignores_ended_children(tmp_path: Path) -> None:
    """Then the system keeps no exit codes, and Python takes them for 0."""
    caller = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); "
    above = (sys.executable, "-c", caller + "os.execv(sys.argv[1], sys.argv[1:])")
    with start(tmp_path, "import sys; sys.exit(3)", above=above) as node:
        assert node.wait(30) == 3


def test_if_a_worker_cannot_be_started_the_others_are_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, numbers, real = list[subprocess.Popen[bytes]](), iter(range(3)), subprocess.Popen

    def limited(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        if next(numbers) == 2:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        started.append(real(["sleep", "60"], start_new_session=True))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", limited)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        with pytest.raises(UserError) as caught:
            launch.main(["--nproc-per-node", "4", "train.py"])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert [worker.wait(10) for worker in started] == [-signal.SIGKILL] * 2
    line = "worker 3 of 4 cannot be started (Resource temporarily unavailable); "
    assert str(caught.value).startswith(line) and caught.value.code == FAILED


SAVES = """
import os, signal, sys, time
signal.signal(signal.SIG{name}, lambda *_: sys.exit(75))
open(f"{folder}/up." + os.environ["RANK"], "w").close()
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["TERM", "INT", "HUP", "USR1", "USR2", "XCPU"])
def test_signals_reach_all_workers(tmp_path: Path, name: str) -> None:
    program = SAVES.format(name=name, folder=tmp_path)
    with start(tmp_path, program, "--nproc-per-node", "2") as node:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("up.*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        node.send_signal(getattr(signal, f"SIG{name}"))
        assert node.wait(30) == 75


def test_a_signal_before_the_workers_handle_it_stops_them(tmp_path: Path) -> None:
    """One has a handler and waits for the other, which the signal kills."""
    program = (
        "import os, signal, time\n"
        "if os.environ['RANK'] == '0': signal.signal(signal.SIGTERM, lambda *_: None)\n"
        f"open('{tmp_path}/up.' + os.environ['RANK'], 'w').close()\n"
        "while True: time.sleep(1)\n"
    )
    with start(tmp_path, program, "--nproc-per-node", "2") as node:
        until = time.monotonic() + 60
        while len(list(tmp_path.glob("up.*"))) < 2 and time.monotonic() < until:
            time.sleep(0.02)
        node.terminate()
        assert node.wait(30) == 75


@pytest.mark.skipif(os.geteuid() != 0, reason="a process namespace needs root")
def test_as_the_first_process_of_a_container_it_loses_no_signal(tmp_path: Path) -> None:
    """The kernel drops what such a process does not handle, as torchrun until its workers start."""
    paused = (
        "import pathlib, time; from distsent import launch; real = launch.start\n"
        "def start(*words):\n"
        f"    pathlib.Path('{tmp_path}/up').touch(); time.sleep(1); return real(*words)\n"
        "launch.start = start\n"
    )
    file = tmp_path / "program.py"
    file.write_text("import time; time.sleep(60)")
    inside = ["unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", paused + LAUNCH]
    with subprocess.Popen([*inside, str(file)], env=environment()) as node:
        until = time.monotonic() + 60
        while not (tmp_path / "up").exists() and time.monotonic() < until:
            time.sleep(0.02)
        children = Path(f"/proc/{node.pid}/task/{node.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert node.wait(30) == 75
