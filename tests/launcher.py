"""Starts programs as users do, with or without a launcher, and leaves no process behind.

Workers are connected by Horovod, or by torch if the variable TEST_TRANSPORT says so.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
MARK = "DISTSENT_TEST_RUN"  # a variable in the environment of all processes of a start
LAUNCHER_VARIABLES = (
    "HOROVOD_", "OMPI_", "PMI", "SLURM_", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_",
    "TORCHELASTIC_", "DISTSENT_LAUNCH", "DISTSENT_TRANSPORT",
)  # fmt: skip
RANKS = "OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "RANK"
TRANSPORT = os.environ.get("TEST_TRANSPORT", "horovod")
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONPATH": str(ROOT),
}


@dataclass(frozen=True)
class Finished:
    code: int
    output: str
    seconds: float


class Started:
    """A program, or N workers of it under `horovodrun -np N`, or distsent.launch for torch.

    As a context manager it kills all its processes at the end. `options`: of horovodrun.
    """

    def __init__(
        self,
        command: Sequence[str],
        np: int | None = None,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        transport: str = TRANSPORT,
    ) -> None:
        self.mark = uuid.uuid4().hex
        words = [sys.executable, *command]
        if np is not None and transport == "torch" and not options:
            words = [sys.executable, "-m", "distsent.launch", f"--nproc-per-node={np}", *command]
        elif np is not None:
            words = [sys.executable, str(BIN / "horovodrun"), "-np", str(np), *options, *words]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER_VARIABLES)}
        clean |= WORKER_ENVIRONMENT | {
            "VIRTUAL_ENV": str(BIN.parent),
            "PATH": f"{BIN}:{os.environ['PATH']}",
            MARK: self.mark,
        }
        # Not a pipe, which could fill up and block. Closed with this object.
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            words,
            cwd=cwd,
            env=clean | dict(env or {}),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_all()
        self.process.wait()
        self._file.close()

    def _kill_all(self) -> None:
        for process in self.processes():
            kill(process)

    @property
    def output(self) -> str:
        self._file.flush()
        return Path(f"/proc/self/fd/{self._file.fileno()}").read_text(errors="replace")

    def wait(self, timeout: float = 1200.0) -> Finished:
        """Wait for the end. Raises TimeoutError with the output, after killing all processes."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            output = self.output
            self._kill_all()
            raise TimeoutError(f"no end after {timeout} s; output:\n{output}") from None
        return Finished(code, self.output, time.monotonic() - self._started)

    def processes(self) -> list[int]:
        """All living processes of this start, also those whose parents have ended."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            process = int(path.name)
            with suppress(OSError):
                if environment(process).get(MARK) == self.mark and state(process) != "Z":
                    found.append(process)
        return found

    def worker(self, rank: int) -> int:
        """The process ID of the worker with this rank."""
        for process in self.processes():
            if rank_of(process) == rank and "python" in "\0".join(arguments(process)):
                return process
        raise AssertionError(f"there is no worker {rank}; output:\n{self.output}")

    def until(self, condition: Callable[[], bool], timeout: float = 1200.0) -> None:
        """Wait for a condition while the program runs."""
        wait_for(lambda: condition() or self.process.poll() is not None, timeout)
        assert condition(), f"ended with {self.process.poll()} before; output:\n{self.output}"


def start(*command: str, np: int | None = None, cwd: Path | None = None, **env: str) -> Started:
    return Started(command, np, cwd, env)


def run(
    *command: str,
    np: int | None = None,
    cwd: Path | None = None,
    timeout: float = 1200.0,
    transport: str = TRANSPORT,
    **env: str,
) -> Finished:
    """Start a program (`-m`, module, arguments) and wait for its end."""
    with Started(command, np, cwd, env, transport=transport) as started:
        return started.wait(timeout)


def wait_for(condition: Callable[[], bool], timeout: float) -> None:
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, f"not within {timeout} s"
        time.sleep(0.05)


def free_port() -> int:
    """A port of this host that no client is given meanwhile: theirs are higher."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def environment(process: int) -> dict[str, str]:
    """The environment with which a process was started. Raises OSError when it is gone."""
    text = Path(f"/proc/{process}/environ").read_bytes().decode(errors="replace")
    return dict(entry.partition("=")[::2] for entry in text.split("\0"))


def rank_of(process: int) -> int | None:
    """The rank of a worker; None for other processes. Raises OSError when it is gone."""
    found = environment(process)
    return next((int(found[name]) for name in RANKS if name in found), None)


def arguments(process: int) -> list[str]:
    """The command line of a process. Raises OSError when it is gone."""
    return Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")


def state(process: int) -> str:
    """The kernel's letter for a process: R, S, T, Z ..."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
