"""Who may change a run folder: the start whose token is in `.owner`, until another takes over.

A lock alone does not tell. Some shared file systems have none, or only between processes of one
host, and a process may go on after its node was given up for lost. So nothing is changed but
through a path that has the owner's token in its name: content is written under such a name, then
renamed; what is deleted is first moved into a folder of such a name. The order decides:

    owner       make that path, check the token, rename
    new owner   write its token, move all paths of other tokens out of the way, then read the rest

If the check succeeds after the new token was written, it read the new one. If it was read before,
the path was there before, too, and is moved: the late rename fails, wherever the old owner paused.
"""

import errno
import itertools
import json
import os
import secrets
import shutil
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from distsent.errors import FAILED, UserError
from distsent.lock import FileLock, is_old
from distsent.storage import entries, is_folder

FILE = ".owner"
RENEWED = 5.0  # seconds between signs of life
SILENT = 20.0  # seconds without one after which an owner on another host counts as gone


class Owner:
    """Writes a folder that nobody else writes: a tool's, or a test's."""

    def __init__(self) -> None:
        self.token = secrets.token_hex(6)
        self._number = itertools.count()

    @property
    def lost(self) -> bool:
        """Whether another start has taken the folder over. May be seconds late."""
        return False

    def check(self) -> None:
        """Raises UserError with code FAILED if another start has taken the folder over."""

    def temporary(self, path: Path) -> Path:
        """A new name beside `path`, to write its content under. Nothing has this name."""
        return path.with_name(f".{path.name}.{self.token}-{next(self._number)}.tmp")

    def publish_folder(self, temporary: Path, path: Path) -> None:
        """Rename a folder to `path`. A folder there is deleted before, with all that is in it."""
        if is_folder(path):
            self.delete(path)
        self._rename(temporary, path)

    def _rename(self, temporary: Path, path: Path) -> None:
        self.check()
        try:
            os.rename(temporary, path)
        except FileNotFoundError:
            self.check()  # a new owner has moved it away
            raise

    def delete(self, path: Path) -> None:
        """Delete a file or folder, if it is there. What cannot be deleted only costs space."""
        grave = self.temporary(path.with_name("deleted"))
        grave.mkdir()
        try:
            self.check()
            with suppress(FileNotFoundError):
                os.rename(path, grave / path.name)
        finally:
            shutil.rmtree(grave, ignore_errors=True)

    def sweep(self, parent: Path) -> None:
        """Delete what killed processes left of their writing in a folder."""
        for path in entries(parent):
            if _is_temporary(path) and not self._made(path):
                _remove(path)

    def release(self) -> None:
        """Let the next start take the folder over at once. This one changes nothing any more."""

    def _made(self, path: Path) -> bool:
        return f".{self.token}-" in path.name

    def write_text(self, path: Path, text: str) -> None:
        """Replace a file's content atomically: readers see the old text or the new one.

        Raises IsADirectoryError if `path` is a folder. It stays as it is.
        """
        if is_folder(path):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        temporary = self.temporary(path)
        try:
            # In JSON, these backslashes are the escape of a lone surrogate.
            with open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            self._rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


class RunOwner(Owner):
    """The start of a run that has taken its folder over, and shows every few seconds that it lives.

    `check` reads `.owner`: an opened file is the newest one on every network file system.
    """

    def __init__(self, folder: Path, lock: FileLock | None) -> None:
        super().__init__()
        self._folder, self._file = folder, folder / FILE
        self._about: dict[str, Any] = {"token": self.token, "lock": lock.reach if lock else None}
        self._about |= {"process": os.getpid(), "host": socket.gethostname()}
        self._lost_to = ""
        self._checked = -RENEWED
        self._released = threading.Event()

    @classmethod
    def take(
        cls,
        folder: Path,
        lock: FileLock | None,
        known: str | None = None,
        poll: Callable[[], None] = lambda: None,
    ) -> "RunOwner":
        """Take a folder over. `lock`: of the folder. `known`: the token of an owner that is gone.

        Waits until it is clear that an owner on another host is gone; calls `poll` meanwhile.
        Raises UserError with code FAILED if that one lives, OSError if the disk refuses.
        """
        owner = cls(folder, lock)
        # Listed: a host may have cached that there was no such file.
        before = _read(owner._file) if FILE in os.listdir(folder) else None
        gone = before is None or before.get("released") or before.get("token") == known
        if before and not gone and (lock is None or before.get("lock") != lock.reach):
            owner._wait_for_silence(before, poll)
        temporary = owner.temporary(owner._file)
        temporary.write_text(json.dumps(owner._about))
        try:
            os.rename(temporary, owner._file)
        except FileNotFoundError:  # another start has moved it away: it was a moment faster
            raise busy(folder, _name(_read(owner._file) or {})) from None
        for parent in (folder, folder / "checkpoints"):
            owner._move_away(parent, lock is not None and lock.works)
        owner.check()
        threading.Thread(target=owner._show_life, name="owner", daemon=True).start()
        return owner

    def _wait_for_silence(self, before: dict[str, Any], poll: Callable[[], None]) -> None:
        """Watch rather than ask for the time: the clocks of hosts differ."""
        sign = _sign_of_life(self._file)
        end = time.monotonic() + (0 if is_old(self._file) else SILENT)
        while time.monotonic() < end:
            poll()
            time.sleep(min(0.5, RENEWED / 5))
            now = _read(self._file)
            if now and now.get("released"):
                return
            if now != before or _sign_of_life(self._file) != sign:
                raise busy(self._folder, _name(now or before))

    def _move_away(self, parent: Path, locks: bool) -> None:
        """Move what other owners may still rename out of their way; delete it if that is safe."""
        for path in entries(parent):
            if _is_temporary(path) and not self._made(path):
                moved = parent / f".fenced.{self.token}-{next(self._number)}"
                # Not there any more, or of a stranger who alone may rename it.
                with suppress(FileNotFoundError, PermissionError):
                    os.rename(path, moved)
        for path in entries(parent):
            if path.name.startswith(".fenced.") and (locks or is_old(path)):
                _remove(path)

    def sweep(self, parent: Path) -> None:
        """Nothing: `take` has. What others wrote since is not ours to delete."""

    @property
    def lost(self) -> bool:
        if time.clock_gettime(time.CLOCK_BOOTTIME) - self._checked > RENEWED:
            with suppress(UserError, OSError):
                self.check()
        return bool(self._lost_to)

    def check(self) -> None:
        if not self._lost_to and self._released.is_set():
            self._lost_to = "its end"
        if not self._lost_to:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)  # also runs while the host is suspended
            found = _read(self._file)
            if not found or found.get("token") != self.token:
                self._lost_to = _name(found) if found else "somebody who deleted .owner"
            self._checked = now
        if self._lost_to:
            what = f"this start lost the run to {self._lost_to}"
            raise UserError(f"{self._folder}: {what}; it ends, and changes nothing", code=FAILED)

    def _show_life(self) -> None:
        while not self._released.wait(RENEWED) and not self._lost_to:
            with suppress(UserError, OSError):
                self.check()
                os.utime(self._file)

    def release(self) -> None:
        with suppress(UserError, OSError):
            self.write_text(self._file, json.dumps({**self._about, "released": True}))
        self._released.set()


def busy(folder: Path, owner: str) -> UserError:
    """The folder belongs to another start, which lives."""
    fix = "wait for it, stop it, or give this run another job.name"
    # A retry may succeed: the workers of the last start may still be saving.
    return UserError(f"{folder}: {owner} is training here right now; {fix}", code=FAILED)


def token_of(folder: Path) -> str | None:
    """The token of a run folder's owner."""
    return (_read(folder / FILE) or {}).get("token")


def _read(path: Path) -> dict[str, Any] | None:
    """What an owner has written; None if there is none. Raises OSError if that is not clear."""
    for seconds in (0.2, 1.0, None):
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return found if isinstance(found, dict) else {"token": None}
        except ValueError:  # a power failure may have cut it short
            return {"token": None}
        except FileNotFoundError:  # perhaps just being replaced, where that is not atomic
            if seconds is None:
                return None
        except OSError:
            if seconds is None:
                raise
        time.sleep(seconds)
    return None


def _sign_of_life(path: Path) -> int:
    """Changes while the owner lives. Network file systems ask the server when a file is opened."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns


def _name(owner: dict[str, Any]) -> str:
    if "process" not in owner:
        return "another process"
    return f"process {owner['process']} on {owner['host']}"


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
