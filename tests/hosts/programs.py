"""Starts of distsent's programs in forks of a process that has its imports done.

Each may see the shared storage as another host does: in a mount namespace of its own.

    python -m tests.hosts.programs        (reads requests from standard input, until it ends)
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests import launcher
from tests.hosts.mutants import MUTANTS

NEW_MOUNTS, BIND, PRIVATE, ALL = 0x20000, 0x1000, 0x40000, 0x4000  # unshare(2), mount(2)


@dataclass(frozen=True)
class Ended:
    """`code`: the exit code, or minus the number of a signal. `output`: both streams."""

    code: int
    output: str


class Programs:
    """A context manager: the process that forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hosts.programs"],
            cwd=launcher.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | launcher.WORKER_ENVIRONMENT,
            text=True,
        )
        self._ended: dict[int, int] = {}
        self._outputs: dict[int, Path] = {}

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def start(
        self,
        program: str,
        *arguments: str,
        host: tuple[Path, Path] | None = None,
        appears: float = 1.0,
        mutant: str = "",
        **env: str,
    ) -> int:
        """Start a program; returns a number for `wait`.

        `host`: (mount, place): the program sees at `place` what is at `mount`. `appears`: seconds
        to wait for files that another host has just written. `mutant`: a mistake in the program.
        """
        number = len(self._outputs)
        handle, output = tempfile.mkstemp(prefix="distsent-output-")
        os.close(handle)
        self._outputs[number] = Path(output)
        request = {"number": number, "program": program, "arguments": arguments, "output": output}
        seen = [str(path) for path in host] if host else None
        request |= {"host": seen, "appears": appears, "mutant": mutant, "env": env}
        assert self._process.stdin
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return number

    def wait(self, number: int) -> Ended:
        """The end of a start. It is killed after LIMIT seconds."""
        assert self._process.stdout
        while number not in self._ended:
            done, status = json.loads(self._process.stdout.readline())
            self._ended[done] = os.waitstatus_to_exitcode(status)
        output = self._outputs[number]
        text = output.read_text(errors="replace")
        output.unlink()
        return Ended(self._ended[number], text)

    def run(self, program: str, *arguments: str, mutant: str = "", **env: str) -> Ended:
        return self.wait(self.start(program, *arguments, mutant=mutant, **env))


LIMIT = 900.0  # seconds


def serve(modules: dict[str, ModuleType]) -> dict[str, Any] | None:
    """Fork for each request. Returns it in the fork, None in this process at the end."""
    running: dict[int, tuple[int, float]] = {}  # number and end of each process
    waiting = b""
    while True:
        if select.select([0], [], [], 0.01)[0]:
            text = os.read(0, 1 << 16)
            if not text:
                return None
            *lines, waiting = (waiting + text).split(b"\n")
            for line in lines:
                request = json.loads(line)
                process = os.fork()
                if process == 0:
                    return request
                running[process] = request["number"], time.monotonic() + LIMIT
        for process, (_, end) in running.items():
            if time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                print(json.dumps([running.pop(ended[0])[0], ended[1]]), flush=True)


def become(request: dict[str, Any]) -> None:
    """Turn this fork into the program that is asked for."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    output = os.open(request["output"], os.O_WRONLY)
    for number in (1, 2):
        os.dup2(output, number)
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
    os.environ.update(request["env"])
    sys.argv = [f"{request['program']}.py", *request["arguments"]]
    if request["host"]:
        see(*request["host"])


def see(mount: str, place: str) -> None:
    """Show this process what is at `mount` in `place`, too. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    calls = (
        lambda: libc.unshare(NEW_MOUNTS),
        lambda: libc.mount(b"none", b"/", None, PRIVATE | ALL, None),
        lambda: libc.mount(mount.encode(), place.encode(), None, BIND, None),
    )
    for call in calls:
        if call() != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    import transformers.models.bert.modeling_bert  # noqa: F401

    import distsent.evaluation.offline
    import distsent.reporting.comparison
    import distsent.training.session  # noqa: F401
    from distsent import cli, evaluate, prepare, storage, train
    from distsent.reporting import plots

    plots.available = lambda: False  # they take longer than the training
    modules = {"train": train, "evaluate": evaluate, "prepare": prepare}
    request = serve(modules)
    if request is not None:
        become(request)
        storage.APPEARS = request["appears"]
        if request["mutant"]:
            MUTANTS[request["mutant"]]()
        cli.run(modules[request["program"]].main)


if __name__ == "__main__":
    main()
