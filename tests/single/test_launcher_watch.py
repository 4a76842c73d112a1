"""Launchers are found among a process's ancestors, and their end is noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from distsent.runtime import launcher_watch

FIND = "from distsent.runtime.launcher_watch import launchers; print([p.pid for p in launchers()])"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A launcher's script that prints its own process id and what a worker of it finds."""
    path = tmp_path / "mpirun"
    path.write_text(f"#!/bin/sh\necho $$\n{sys.executable} -c '{FIND}'\ntrue\n")
    path.chmod(0o755)
    return path


def test_a_launcher_that_is_a_script_is_found(script: Path) -> None:
    # Its command line is "/bin/sh .../mpirun -np 2": the shell is the program.
    done = subprocess.run([script, "-np", "2"], capture_output=True, text=True, check=True)
    process, found = done.stdout.splitlines()
    assert found == f"[{process}]"


def test_the_shell_that_horovodrun_becomes_is_found(script: Path) -> None:
    command = ["sh", "-c", f"{script} -np 2; true"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        process, found = shell.stdout.read().splitlines()
    assert found == f"[{process}, {shell.pid}]", "nearest first"


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("python -u -m torch.distributed.run --nproc-per-node 2 train.py", True),
        ("/venv/bin/python -X dev -W error -m torch.distributed.launch train.py", True),
        ("python -mdistsent.launch -m distsent.train", True),
        ("python3.11 /venv/bin/torchrun train.py", True),
        ("mpiexec.hydra -n 2 python train.py", True),
        ("slurmstepd: [123.0]", True),
        ("bash start_exported.sh", False),  # orted
        ("python -m distsent.train jobs/imdb.toml mpirun", False),
        ("python tools/show_run.py horovodrun -np 2", True),
        ("", False),  # of the kernel
    ],
)
def test_whole_names_of_programs_scripts_and_modules_count(command: str, found: bool) -> None:
    process: Any = SimpleNamespace(cmdline=command.split)
    assert launcher_watch.is_launcher(process) is found


def test_without_a_launcher_there_is_none() -> None:
    command = [sys.executable, "-c", FIND]
    assert not launcher_watch.is_launcher(psutil.Process(os.getpid()))
    assert subprocess.run(command, capture_output=True, text=True).stdout == "[]\n"


def test_a_zombie_and_a_reaped_process_have_ended() -> None:
    child = subprocess.Popen(["sleep", "60"])
    process = psutil.Process(child.pid)
    assert not launcher_watch.has_ended(process)
    child.kill()
    until = time.monotonic() + 10
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until:
        time.sleep(0.01)
    assert launcher_watch.has_ended(process), "a zombie"
    child.wait()
    assert launcher_watch.has_ended(process)


def test_a_reused_process_id_is_not_the_launcher() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        process = psutil.Process(child.pid)
        process._ident = (process.pid, 1.0)  # as if that one had started long before
        assert launcher_watch.has_ended(process)
        child.kill()


@pytest.mark.parametrize(
    ("error", "ended"), [(psutil.AccessDenied, False), (psutil.NoSuchProcess, True)]
)
def test_errors_of_the_system_are_tolerated(
    monkeypatch: pytest.MonkeyPatch, error: type[psutil.Error], ended: bool
) -> None:
    def fail(self: psutil.Process) -> None:
        raise error(self.pid)

    process = psutil.Process()
    for name in ("cmdline", "status"):
        monkeypatch.setattr(psutil.Process, name, fail)
    assert launcher_watch.has_ended(process) is ended
    assert not launcher_watch.is_launcher(process)
