"""Forks workers that have finished their imports, which take most of a short run's time.

The server imports once and forks a worker whenever a launcher starts `worker_stub.py` in place of a
worker. The stub hands over its environment, folder and outputs, forwards signals, and exits with
its worker's status; when the stub is killed, so is its worker. Thus a launcher, and a worker that
watches its launcher, behave as they do without the server. Only the imports cannot be attacked.

    python -m tests.chaos.fork_server FOLDER        (serves until its standard input ends)
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests import launcher

STUB = Path(__file__).with_name("worker_stub.py")
START_RANKS = Path(__file__).with_name("start_ranks.py")
FOLDER = "FORK_SERVER"  # names the server's folder in the environment of the workers
RANKS = ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "RANK")


class ForkServer:
    """Context manager: the process that forks workers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.fork_server", str(folder)],
            stdin=subprocess.PIPE,
            env=os.environ | launcher.WORKER_ENVIRONMENT,
            start_new_session=True,
        )
        launcher.wait_for((folder / "socket").exists, 120)

    def __enter__(self) -> ForkServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(
        self, arguments: Sequence[str], np: int, transport: str = launcher.TRANSPORT, **env: str
    ) -> launcher.Started:
        command = [str(STUB), str(self.folder / "socket"), *arguments]
        env |= {FOLDER: str(self.folder)}
        if transport == "torch":
            return ForkedStart([str(START_RANKS), str(np), *command], None, None, env)
        return ForkedStart(command, np, None, env)


class ForkedStart(launcher.Started):
    """A start whose workers are forked, so they are not descendants of the launcher."""

    def __init__(
        self, command: Sequence[str], np: int | None, cwd: Path | None, env: dict[str, str]
    ) -> None:
        self._folder = Path(env[FOLDER])
        super().__init__(command, np, cwd, env)

    def workers(self) -> dict[int, int]:
        found = {}
        for path in self._folder.glob(f"{self.mark}.*"):
            process = int(path.read_text() or 0)
            with suppress(OSError):
                if process and launcher.state(process) != "Z":
                    found[int(path.suffix[1:])] = process
        return found

    def processes(self) -> list[int]:
        return [*super().processes(), *self.workers().values()]


def serve(folder: Path) -> socket.socket | None:
    """Fork a worker for each stub. Returns the connection to its stub in each worker."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "new-socket"))
        server.listen(16)
        os.rename(folder / "new-socket", folder / "socket")
        stubs: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([server, sys.stdin, *stubs.values()], [], [], 0.02)
            if sys.stdin in ready:
                return None
            for process, stub in stubs.items():
                if stub in ready:  # the stub is gone
                    os.kill(process, signal.SIGKILL)
            if server in ready:
                stub, _ = server.accept()
                text, outputs = receive(stub)
                process = os.fork()
                if process == 0:
                    become(json.loads(text), outputs)
                    return stub
                for output in outputs:
                    os.close(output)
                stubs[process] = stub
                stub.sendall(f"{process}\n".encode())
            with suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    with suppress(OSError), stubs.pop(ended[0]) as stub:
                        stub.sendall(f"{ended[1]}\n".encode())


def receive(stub: socket.socket) -> tuple[bytes, list[int]]:
    """A stub's first message, up to its newline, and the output descriptors sent with it."""
    text, outputs, _, _ = socket.recv_fds(stub, 1 << 20, 2)
    while not text.endswith(b"\n"):
        text += stub.recv(1 << 20)
    return text, outputs


def become(message: dict[str, Any], outputs: Sequence[int]) -> None:
    """Turn this fork into the process that the launcher meant to start."""
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    # Streams remember whether the file that they were opened on can seek
    sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))  # noqa: SIM115
    env = message["environment"]
    os.environ.clear()
    os.environ.update(env)
    os.chdir(message["folder"])
    sys.argv = ["tests.chaos.paused_worker", *message["arguments"]]
    # The stub counts as this process's parent, so that the launchers above it are found.
    own, parent_of = os.getpid(), psutil.Process.ppid
    psutil.Process.ppid = lambda self: message["stub"] if self.pid == own else parent_of(self)
    rank = next(env[name] for name in RANKS if name in env)
    (Path(env[FOLDER]) / f"{env[launcher.MARK]}.{rank}").write_text(str(os.getpid()))


if __name__ == "__main__":
    import horovod.torch  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401

    import distsent.distributed.torch_world
    import distsent.reporting.comparison
    import distsent.training.session  # noqa: F401
    from distsent import cli
    from tests.chaos import paused_worker

    gc.freeze()  # else a worker's collections copy the pages of all modules
    connection = serve(Path(sys.argv[1]))
    if connection is not None:
        cli.run(paused_worker.main)
