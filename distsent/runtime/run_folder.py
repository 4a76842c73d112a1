"""The run folder: all paths of a run. Small files in it are written completely or not at all."""

import errno
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from distsent.errors import FAILED, UserError, exit_code
from distsent.lock import FileLock, holder, try_lock
from distsent.machine_errors import errno_of
from distsent.runtime.ownership import Owner, RunOwner, busy, token_of
from distsent.runtime.run_status import RunStatus, refusal_file
from distsent.storage import ABSENT, exists, is_folder

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


# Seconds that workers which torchrun started again wait for those of its last start, on another
# node perhaps, to end.
RESTART_PATIENCE = 60.0


def is_restart(env: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started these workers again, after a failure (`--max-restarts`)."""
    return env.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


class RunFolder:
    """`<run.dir>/<job.name>/` and its contents. Only the main worker writes."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.job = self.path / "job.json"
        self.log = self.path / "train.log"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.tracker = self.path / "tracker.json"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.card = self.model / "README.md"
        self.predictions = self.path / "predictions"
        self.result = self.path / "result.json"
        self.status = self.path / "status.json"
        self.stacks = self.path / "stacks"
        self.owner = Owner()  # of what this process writes here
        self._lock: FileLock | None = None

    def create(self) -> None:
        """Create the folder. Raises UserError if it is not a run's, or cannot be written to."""
        try:
            self._check_is_run()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):  # `os.access` says no for any error
                pass
        except OSError as error:
            problem = f"run.dir: cannot write to {self.path} ({error.strerror})"
            fix = "choose another folder with run.dir=..."
            if error.errno in (errno.EEXIST, errno.ENOTDIR):
                file = next(
                    filter(is_no_folder, (self.checkpoints, *self.checkpoints.parents)), self.path
                )
                problem = f"run.dir: {file} is not a folder"
                fix = f"move it away, or {fix}"
            code = exit_code(error)
            with suppress(OSError):
                if error.errno in REFUSED and exists(self.job):  # it was allowed before
                    code = FAILED
            if code == FAILED:
                fix = f"fix that and run the same command again, or {fix}"
            raise UserError(f"{problem}; {fix}", code=code) from None

    def _check_is_run(self) -> None:
        """Raises UserError for a folder of something else, of which a run would delete a part."""
        own = (self.job, self.status, self.result, self.path / ".lock", self.path / ".owner")
        replaced = (self.model, self.predictions)
        if not any(map(exists, own)) and (found := next(filter(exists, replaced), None)):
            problem = f"{self.path} is no run and has {found.name}, which a run would replace"
            raise UserError(f"run.dir: {problem}; choose another job.name, or move it away")

    def lock(self, known: str | None = None, poll: Callable[[], None] = lambda: None) -> str | None:
        """Make this process the folder's owner, until it ends. Returns a line for the user, if any.

        `known`: the token of an owner that has left this world of workers. Raises UserError with
        code FAILED if another owner lives.
        """
        until = time.monotonic() + (RESTART_PATIENCE if is_restart() else 0.0)
        while True:
            try:
                self._take(known, poll)
                break
            except UserError as error:
                self.unlock()
                if error.code != FAILED or time.monotonic() >= until:
                    raise
            poll()
            time.sleep(0.2)
        if self._lock is None or self._lock.works:
            return None
        how = "another start is noticed by its signs of life alone"
        return f"{self.path}: the file system has no locks; {how}"

    def _take(self, known: str | None, poll: Callable[[], None]) -> None:
        """Raises UserError with code FAILED if another owner lives."""
        file = self.path / ".lock"
        self._lock = try_lock(file)
        if self._lock is None and (known is None or token_of(self.path) != known):
            raise busy(self.path, holder(file))
        self.owner = RunOwner.take(self.path, self._lock, known, poll)

    def unlock(self) -> None:
        self.owner.release()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def write_status(self, status: RunStatus) -> None:
        self.owner.write_text(self.status, status.to_json())

    def write_refusal(self, code: int, message: str, attempt: str | None = None) -> None:
        """Record beside the folder how this start ends, if its launcher will look for it.

        The folder itself belongs to another process or to another job's run. `attempt`: the
        launcher's name for the start, if the launcher itself writes this.
        """
        status = RunStatus.started("").ended(code, message)
        status = replace(status, attempt=attempt or status.attempt)
        if status.attempt is not None:
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_text(refusal_file(self.path), status.to_json())

    def write_json(self, path: Path, value: Any) -> None:
        self.owner.write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def reset(self) -> None:
        """Delete everything that an earlier run left, except the lock. Raises OSError."""
        folders = (self.tensorboard, self.checkpoints, self.model, self.predictions, self.stacks)
        for path in (*folders, self.job, self.log, self.metrics, self.tracker, self.result):
            self.owner.delete(path)
        self.checkpoints.mkdir(parents=True, exist_ok=True)


def is_no_folder(path: Path) -> bool:
    """Whether something else has this name, such as a file or a broken link."""
    return os.path.lexists(path) and not is_folder(path)


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
    """Replace a file's content atomically, where no other process writes it."""
    Owner().write_text(path, text)


def read_json(path: Path, fix: str = "restore it or delete it") -> Any:
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
        raise UserError(f"{path}: not readable as JSON ({error}); {fix}") from None
