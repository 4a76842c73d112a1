"""One process at a time: a file lock that dies with its owner, and that does no harm where there are no locks."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

NONE_HERE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what some shared file systems answer


class Lock:
    """Holds `path` locked, as a context. `says` is called once if another process must be waited for.

    The kernel gives the lock back when its owner ends, however it ends; the file stays, for deleting it would let two
    processes hold locks of two files under one name. Where the file system has no locks, everybody is let in.
    """

    def __init__(
        self, path: Path, says: Callable[[str], None], waiting: Callable[[], None]
    ) -> None:
        self._path, self._says, self._waiting = path, says, waiting

    def __enter__(self) -> Lock:
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        told = False
        try:
            while not self._try():
                if not told:
                    self._says(f"waiting for {self._owner()}, which makes the same token store")
                    told = True
                self._waiting()
                time.sleep(0.1)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        except BaseException:
            os.close(self._file)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return error.errno in NONE_HERE or self._fail(error)
            return False
        return True

    def _owner(self) -> str:
        return os.pread(self._file, 200, 0).decode(errors="replace") or "another process"

    @staticmethod
    def _fail(error: OSError) -> bool:
        raise error
