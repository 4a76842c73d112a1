"""The run folder: all paths of a run. Small files in it are written completely or not at all."""

import errno
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from distsent.errors import FAILED, UserError, exit_code
from distsent.machine_errors import errno_of
from distsent.runtime.run_status import RunStatus
from distsent.storage import ABSENT, exists

NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


class RunFolder:
    """`<run.dir>/<job.name>/` and its contents. Only the main worker writes."""

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
        self.status = self.path / "status.json"
        self._lock_file: int | None = None

    def create(self) -> None:
        """Create the folder. Raises UserError if it cannot be written to."""
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):  # `os.access` says no for any error
                pass
        except OSError as error:
            problem = f"run.dir: cannot write to {self.path} ({error.strerror})"
            fix = "choose another folder with run.dir=..."
            if exit_code(error) == FAILED:
                fix = f"fix that and run the same command again, or {fix}"
            raise UserError(f"{problem}; {fix}") from None

    def lock(self) -> None:
        """Lock the folder for this process. The lock ends with the process, however it ends.

        Raises UserError with code FAILED if another process holds the lock.
        """
        self._lock_file = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._lock_file, 200).decode(errors="replace").strip()
            problem = f"{self.path}: {owner or 'another process'} is training here right now"
            fix = "wait for it, stop it, or give this run another job.name"
            # A retry may succeed: the workers of the last start may still be saving.
            raise UserError(f"{problem}; {fix}", code=FAILED) from None
        except OSError:
            return  # a file system without locks
        os.ftruncate(self._lock_file, 0)
        owner = f"process {os.getpid()} on {socket.gethostname()}\n"
        os.pwrite(self._lock_file, owner.encode(), 0)

    def unlock(self) -> None:
        if self._lock_file is not None:
            os.close(self._lock_file)
            self._lock_file = None

    def write_status(self, status: RunStatus) -> None:
        write_text(self.status, status.to_json())

    def reset(self) -> None:
        """Delete everything that an earlier run left, except the lock. Raises OSError."""
        for path in (self.checkpoints, self.tensorboard, self.model, self.predictions):
            if exists(path):
                shutil.rmtree(path)
        for path in (self.job, self.log, self.metrics, self.result):
            path.unlink(missing_ok=True)
        self.checkpoints.mkdir(parents=True, exist_ok=True)


@contextmanager
def disk_errors_as_user_errors(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a one-line UserError with code FAILED: a retry resumes."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # not all libraries raise OSError
        number = errno_of(error)
        if number is None:
            raise
        what = "cannot be written" if number in NOT_WRITABLE else "cannot be read or written"
        place = getattr(error, "filename", None) or path
        problem = f"{place}: {what} ({os.strerror(number)})"
        fix = "fix that, or free some space, then run the same command again"
        line = f"{problem}; the checkpoints in {path} are intact: {fix}"
        raise UserError(line, code=FAILED) from None


def write_text(path: Path, text: str) -> None:
    """Replace a file's content atomically: readers see the old text or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # In JSON, these backslashes are the escape of a lone surrogate.
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The object in a file; None if there is no such file. Raises UserError for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not value or not isinstance(value, dict):
            raise ValueError("expected an object with values")
        return value
    except OSError as error:
        if error.errno in ABSENT:
            return None
        raise
    except ValueError as error:
        problem = f"{path}: not readable as JSON ({error})"
        raise UserError(f"{problem}; restore it or delete the run folder") from None
