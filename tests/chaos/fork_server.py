"""Workers that have their imports behind them, for attacks by the hundred: importing takes most of a short run's time.

The nursery imports once and forks a worker whenever a launcher starts `stub.py` in its place. The stub hands over its environment,
folder and outputs, passes signals on, and ends as its worker ends; a worker whose stub is killed is killed. So a launcher, and a
worker that looks for its launcher, see what they see without a nursery. Only the imports are not there to be attacked.

    python -m tests.chaos.fork_server FOLDER        (serves until its standard input ends)
"""

from __future__ import annotations

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

from tests import launcher

STUB = Path(__file__).with_name("stub.py")


class Nursery:
    """The process that forks workers. A context."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        environment = os.environ | {
            "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(launcher.ROOT)
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.fork_server", str(folder)],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        launcher.wait_for((folder / "socket").exists, 120)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def start(self, arguments: Sequence[str], np: int, **env: str) -> launcher.Started:
        return Warm(
            [str(STUB), str(self.folder / "socket"), *arguments],
            np,
            None,
            env | {"NURSERY": str(self.folder)},
        )


class Warm(launcher.Started):
    """A start whose workers come from a nursery: no descendants of the launcher, and seen from outside without its environment."""

    def __init__(
        self, command: Sequence[str], np: int, cwd: Path | None, env: dict[str, str]
    ) -> None:
        self._folder = Path(env["NURSERY"])
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
    """Fork a worker for each stub. Returns in each worker, with the line to its stub."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "coming"))
        server.listen(16)
        os.rename(folder / "coming", folder / "socket")
        lines: dict[int, socket.socket] = {}
        while True:
            ready, _, _ = select.select([server, sys.stdin, *lines.values()], [], [], 0.02)
            if sys.stdin in ready:
                return None
            for process, line in lines.items():
                if line in ready:  # its stub is gone
                    os.kill(process, signal.SIGKILL)
            if server in ready:
                line, _ = server.accept()
                text, outputs = receive(line)
                process = os.fork()
                if process == 0:
                    become(json.loads(text), outputs)
                    return line
                for output in outputs:
                    os.close(output)
                lines[process] = line
                line.sendall(f"{process}\n".encode())
            with suppress(ChildProcessError):
                while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    with suppress(OSError), lines.pop(ended[0]) as line:
                        line.sendall(f"{ended[1]}\n".encode())


def receive(line: socket.socket) -> tuple[bytes, list[int]]:
    """A stub's first message, up to its end of line, and the outputs that came with it."""
    text, outputs, _, _ = socket.recv_fds(line, 1 << 20, 2)
    while not text.endswith(b"\n"):
        text += line.recv(1 << 20)
    return text, outputs


def become(what: dict[str, Any], outputs: Sequence[int]) -> None:
    """Turn this fork into the process that the launcher wanted to start."""
    for number, output in enumerate(outputs, 1):
        os.dup2(output, number)
        os.close(output)
    os.environ.clear()
    os.environ.update(what["environment"])
    os.chdir(what["folder"])
    sys.argv = ["tests.chaos.paused_worker", *what["arguments"]]
    os.getppid = lambda: int(what["stub"])
    rank = next(
        what["environment"][name]
        for name in ("OMPI_COMM_WORLD_RANK", "HOROVOD_RANK")
        if name in what["environment"]
    )
    mark = what["environment"][launcher.MARK]
    (Path(os.environ["NURSERY"]) / f"{mark}.{rank}").write_text(str(os.getpid()))


if __name__ == "__main__":
    import horovod.torch  # noqa: F401
    import transformers.models.bert.modeling_bert  # noqa: F401

    import distsent.reporting.comparison
    import distsent.training.session  # noqa: F401
    from distsent import cli
    from tests.chaos import paused_worker

    mine = serve(Path(sys.argv[1]))
    if mine is not None:
        cli.run(paused_worker.main)
