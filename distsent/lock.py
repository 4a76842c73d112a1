"""File locks that end with their process, and what may be deleted where they do not tell."""

import errno
import fcntl
import hashlib
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from distsent.errors import UserError

# EACCES: SMB and Azure Files say that of a lock that is held. We have opened the file for writing.
HELD = (errno.EWOULDBLOCK, errno.EACCES)
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some shared file systems
YOUNG = 6 * 3600  # seconds for which what a stranger left may still be in use
BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class FileLock:
    """A lock that this process holds, until `close` or its end.

    `works`: whether the file system has locks. `reach`: a name for the processes that this lock
    keeps out. Whoever had a lock of the same reach has lost it. Others may live: on another host,
    where locks may not reach, or with a lock file that was deleted since.
    """

    file: int
    works: bool
    reach: str

    def close(self) -> None:
        with suppress(OSError):  # nothing in the file matters any more
            os.close(self.file)


def try_lock(path: Path) -> FileLock | None:
    """Lock the file `path`; None if another process has done so. Raises UserError, OSError.

    The file stays: if it were deleted, two processes could lock two files of the same name.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:
        fix = "let its group write it (chmod g+w), or choose another folder"
        raise UserError(
            f"{path}: no permission to open this lock file for writing; {fix}"
        ) from None
    try:
        works = _flock(file)
        if works is None:
            os.close(file)
            return None
        with suppress(OSError):  # a full disk: the lock holds, its file names nobody
            os.ftruncate(file, 0)
            os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return FileLock(file, works, _reach(file) if works else secrets.token_hex(6))
    except BaseException:
        os.close(file)
        raise


def _flock(file: int) -> bool | None:
    """Whether there are locks; None if another process holds this one."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return None
        if error.errno not in NO_LOCKS:
            raise
        return False
    return True


def _reach(file: int) -> str:
    """A kernel, a mount in it, a file there: what surely sees one `flock`."""
    found = os.fstat(file)
    content = f"{BOOT.read_text()} {found.st_dev} {found.st_ino}"
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def holder(path: Path) -> str:
    """Who holds the lock of `path`, in words."""
    with suppress(OSError):
        if found := path.read_bytes()[:200].decode(errors="replace").strip():
            return found
    return "another process"


@contextmanager
def locked(
    path: Path, on_wait: Callable[[str], None], poll: Callable[[], None]
) -> Iterator[FileLock]:
    """Hold the lock of `path`; every process does where the file system has no locks.

    While another process holds it, `on_wait` is called once, with its name, and `poll` often.
    """
    waiting = False
    while (lock := try_lock(path)) is None:
        if not waiting:
            on_wait(holder(path))
        waiting = True
        poll()
        time.sleep(0.1)
    try:
        yield lock
    finally:
        lock.close()


def is_old(path: Path) -> bool:
    """Whether nothing was changed in a file or folder for so long that nobody still uses it.

    By the clock of its file system, if that has one: the clocks of hosts may differ by hours.
    """
    clock = path.with_name(f".clock.{secrets.token_hex(4)}.tmp")
    try:
        clock.touch(exist_ok=False)
        now = clock.stat().st_mtime
    finally:
        clock.unlink(missing_ok=True)
    try:
        inside = list(os.scandir(path)) if path.is_dir() else []
        times = [path.stat().st_mtime, *(entry.stat().st_mtime for entry in inside)]
    except OSError:  # being deleted or renamed by somebody
        return False
    return now - max(times) > YOUNG
