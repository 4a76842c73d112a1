"""A file lock that ends with its process, and does no harm where there are no locks."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some shared file systems


@contextmanager
def locked(path: Path, on_wait: Callable[[str], None], poll: Callable[[], None]) -> Iterator[None]:
    """Hold the lock of `path`; every process does where the file system has no locks.

    While another process holds it, `on_wait` is called once, with its name, and `poll` often.
    The file stays: if it were deleted, two processes could lock two files of the same name.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        waiting = False
        while not _try_lock(file):
            if not waiting:
                on_wait(os.pread(file, 200, 0).decode(errors="replace") or "another process")
            waiting = True
            poll()
            time.sleep(0.1)
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(file)


def _try_lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in NO_LOCKS:
            raise
    return True
