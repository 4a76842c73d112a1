"""Start programs as users do, with and without `horovodrun`, and end them for certain."""

from __future__ import annotations

import os
import signal
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
MARK = (
    "DISTSENT_TEST_RUN"  # stands in the environment of all processes of a start, wherever they went
)
LAUNCHER = ("HOROVOD_", "OMPI_", "PMI", "SLURM_")


@dataclass(frozen=True)
class Ended:
    code: int
    output: str
    seconds: float


class Started:
    """A program, or several workers of it under `horovodrun -np N`. A context: nothing survives its end."""

    def __init__(
        self, command: Sequence[str], np: int | None = None, cwd: Path | None = None, env: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.mark = uuid.uuid4().hex
        launch = (
            []
            if np is None
            else [sys.executable, str(BIN / "horovodrun"), "-np", str(np), *options]
        )
        clean = {k: v for k, v in os.environ.items() if not k.startswith(LAUNCHER)}
        clean |= {
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT),
            "VIRTUAL_ENV": str(BIN.parent), "PATH": f"{BIN}:{os.environ['PATH']}", MARK: self.mark,
        }  # fmt: skip
        self._file = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with this object; a pipe could fill up and block)
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [*launch, sys.executable, *command], cwd=cwd, env=clean | dict(env or {}), stdin=subprocess.DEVNULL,
            stdout=self._file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes():
            end(process)
        self.process.wait()
        self._file.close()

    @property
    def output(self) -> str:
        self._file.flush()
        return Path(f"/proc/self/fd/{self._file.fileno()}").read_text(errors="replace")

    def wait(self, timeout: float = 1200.0) -> Ended:
        """The end of the program. Raises TimeoutError with its output when there is none; its processes are then ended."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            output = self.output
            for process in self.processes():
                end(process)
            raise TimeoutError(f"no end after {timeout} s; output:\n{output}") from None
        return Ended(code, self.output, time.monotonic() - self.began)

    def processes(self) -> list[int]:
        """All living processes of this start, wherever their parents have left them."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if (
                    f"{MARK}={self.mark}".encode() in (path / "environ").read_bytes()
                    and state(int(path.name)) != "Z"
                ):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def worker(self, rank: int) -> int:
        """The process id of the worker with this rank."""
        for process in self.processes():
            path = Path(f"/proc/{process}")
            environment = (path / "environ").read_bytes().split(b"\0")
            if (
                f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment
                and b"python" in (path / "cmdline").read_bytes()
            ):
                return process
        raise AssertionError(f"there is no worker {rank}; output:\n{self.output}")

    def until(self, what: Callable[[], bool], timeout: float = 1200.0) -> None:
        """Wait for something to come true while the program runs."""
        wait_for(lambda: what() or self.process.poll() is not None, timeout)
        assert what(), f"ended with {self.process.poll()} before; output:\n{self.output}"


def start(*command: str, np: int | None = None, cwd: Path | None = None, **env: str) -> Started:
    return Started(command, np, cwd, env)


def run(
    *command: str,
    np: int | None = None,
    cwd: Path | None = None,
    timeout: float = 1200.0,
    **env: str,
) -> Ended:
    """Start a program (`-m`, module, arguments), wait for its end."""
    with Started(command, np, cwd, env) as started:
        return started.wait(timeout)


def wait_for(what: Callable[[], bool], timeout: float) -> None:
    until = time.monotonic() + timeout
    while not what():
        assert time.monotonic() < until, f"not within {timeout} s"
        time.sleep(0.05)


def state(process: int) -> str:
    """The kernel's letter for a process: R, S, T, Z ..."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def end(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
