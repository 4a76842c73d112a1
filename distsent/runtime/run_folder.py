"""The run folder: every path of a run comes from here, and everything small in it is written complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distsent.errors import FAILED, UserError


class RunFolder:
    """`<run.dir>/<job.name>/` and what lies in it. Only the first worker writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.job = self.path / "job.json"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.card = self.model / "README.md"
        self.predictions = self.path / "predictions"
        self.result = self.path / "result.json"
        self.status = self.path / "status"
        self._lock: int | None = None

    def create(self) -> None:
        """Make the folder. Raises UserError where that is not possible."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, "no permission to write")
        except OSError as error:
            raise UserError(
                f"run.dir: cannot write to {self.path} ({error.strerror}); choose another folder with run.dir=..."
            ) from None

    def claim(self) -> None:
        """Hold the folder for this process; the system lets go of it when the process ends, however it ends.

        Raises UserError, with the code of a failure, when a living run holds it.
        """
        self._lock = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._lock, 200).decode(errors="replace").strip() or "another process"
            raise UserError(
                f"{self.path}: {owner} is training here right now; wait for it, stop it, or give this run another job.name",
                code=FAILED,  # a launcher that tries again may find it free: the workers of its last try were still saving
            ) from None
        except OSError:
            return  # a file system without locks: nothing to hold
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let go of a claimed folder, for whoever trains there next in this very process or in another."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def say(self, status: str) -> None:
        """One line in words: how the run stands."""
        write_text(self.status, status + "\n")

    def clear(self) -> None:
        """Forget a former run: all but the lock."""
        for path in (self.tensorboard, self.checkpoints, self.model, self.predictions):
            shutil.rmtree(path, ignore_errors=True)
        for path in (self.job, self.log, self.metrics, self.result):
            path.unlink(missing_ok=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """What the disk refuses in here is one line, with the exit code of a failure: mended, the same command carries on."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be written ({error.strerror or error}); the checkpoints there are whole: mend that, or make room, "
            "then run the same command again",
            code=FAILED,
        ) from None


def write_text(path: Path, text: str) -> None:
    """Replace a file's content at once: a reader sees the old or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The file's value, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(
            f"{path}: not readable as JSON ({error}); restore it or delete the run folder"
        ) from None
