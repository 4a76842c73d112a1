"""Shared storage as a host sees it: a folder under another name, with faults on request.

A FUSE file system that passes everything on to a folder. Two of them over one folder are two hosts.
Errors come at chosen operations on chosen paths; each host may cache that a file is absent, as NFS
does. It runs in a process of its own: a mapped page is read while Python's lock is held.

    python -m tests.hosts.disk FOLDER MOUNT [OPTIONS]      (mounts until its standard input ends)
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import launcher

ALWAYS = 10**9
TIMES = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
STAT = ("st_mode", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks", "st_ino", "st_dev")


@dataclass(frozen=True)
class Fault:
    """An error at an operation of the file system ("open", "getattr", "*") on paths of a pattern.

    The first `after` matching operations succeed, the next `times` fail, and the others succeed.
    Paths are relative to the folder and begin with "/"; "*" in a pattern also matches "/".
    """

    operation: str
    pattern: str
    error: int
    after: int = 0
    times: int = 1


class Disk:
    """A mounted folder. A context manager; its faults may change at any time."""

    def __init__(self, folder: Path, mount: Path, locks: str = "host", absent: float = 0.0) -> None:
        """`locks`: "shared" among all mounts, of this "host" only, or "none", that is ENOLCK.

        `absent`: seconds for which the kernel believes that there is no such file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        mount.mkdir(parents=True, exist_ok=True)
        self.folder, self.path = folder, mount
        options = f"locks={locks},absent={absent}"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hosts.disk", str(folder), str(mount), options],
            cwd=launcher.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            launcher.wait_for(lambda: mount.is_mount() or self._process.poll() is not None, 120)
            assert mount.is_mount(), "not mounted"
        except BaseException:
            self.close()
            raise

    def fail(self, *faults: Fault) -> None:
        """Replace the faults by these. Forgets the operations so far."""
        self._ask(faults=[asdict(fault) for fault in faults])

    def failed(self) -> int:
        """The number of operations that have failed since `fail`."""
        return int(self._ask()["failed"])

    def operations(self) -> list[tuple[str, str]]:
        """(operation, path) of all operations since `fail`, in order."""
        return [tuple(one) for one in self._ask(log=True)["operations"]]

    def _ask(self, **request: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unmount it, even if it is in use."""
        subprocess.run(["umount", "--lazy", str(self.path)], capture_output=True)
        self._process.kill()
        self._process.wait()


@contextmanager
def need_fuse() -> Iterator[None]:
    """Skip a test where no FUSE file system can be mounted."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.getuid() != 0:
        pytest.skip("needs /dev/fuse and root")
    with suppress(ImportError, OSError):
        import mfusepy  # noqa: F401

        yield
        return
    pytest.skip("needs mfusepy and Debian's fuse3")


class Faults:
    """Which operations fail, and what was asked for so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.set([])

    def set(self, faults: list[dict[str, Any]]) -> None:
        with self._lock:
            self._faults = [Fault(**values) for values in faults]
            self._seen = [0] * len(faults)
            self.failed, self.log = 0, list[tuple[str, str]]()

    def check(self, operation: str, *paths: str) -> None:
        """Raise OSError if this operation is to fail."""
        with self._lock:
            self.log.append((operation, paths[0]))
            for number, fault in enumerate(self._faults):
                if fault.operation not in ("*", operation):
                    continue
                if not any(fnmatch.fnmatchcase(path, fault.pattern) for path in paths):
                    continue
                self._seen[number] += 1
                if 0 < self._seen[number] - fault.after <= fault.times:
                    self.failed += 1
                    raise OSError(fault.error, os.strerror(fault.error))

    def answer(self) -> None:
        """Answer the requests on standard input."""
        for line in sys.stdin:
            request = json.loads(line)
            if "faults" in request:
                self.set(request["faults"])
            reply: dict[str, Any] = {"failed": self.failed}
            if request.get("log"):
                reply["operations"] = self.log
            print(json.dumps(reply), flush=True)
        os._exit(0)


class PassThrough:
    """The operations of mfusepy, on a folder."""

    use_ns = True

    def __init__(self, folder: str, faults: Faults, locks: str) -> None:
        self._folder, self._faults = folder, faults
        if locks != "host":  # without a function, the kernel locks for this mount alone
            self.flock = partial(self._flock, locks)

    def _at(self, operation: str, *paths: str) -> str:
        self._faults.check(operation, *paths)
        return self._folder + paths[-1]

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        found = os.lstat(self._at("getattr", path))
        times = {name.removesuffix("_ns"): getattr(found, name) for name in TIMES}
        return {name: getattr(found, name) for name in STAT} | times

    def readdir(self, path: str, fh: int) -> list[tuple[str, dict[str, int], int]]:
        with os.scandir(self._at("readdir", path)) as found:
            entries = {entry.name: entry.stat(follow_symlinks=False) for entry in found}
        entries |= {".": os.stat(self._folder), "..": os.stat(self._folder)}
        return [
            (name, {"st_mode": found.st_mode, "st_ino": found.st_ino}, 0)
            for name, found in entries.items()
        ]

    def readlink(self, path: str) -> str:
        return os.readlink(self._at("readlink", path))

    def mkdir(self, path: str, mode: int) -> int:
        os.mkdir(self._at("mkdir", path), mode)
        return 0

    def unlink(self, path: str) -> int:
        os.unlink(self._at("unlink", path))
        return 0

    def rmdir(self, path: str) -> int:
        os.rmdir(self._at("rmdir", path))
        return 0

    def symlink(self, path: str, target: str) -> int:
        os.symlink(target, self._at("symlink", path))
        return 0

    def rename(self, old: str, new: str) -> int:
        os.rename(self._folder + old, self._at("rename", old, new))
        return 0

    def chmod(self, path: str, mode: int) -> int:
        os.chmod(self._at("chmod", path), mode)
        return 0

    def chown(self, path: str, user: int, group: int) -> int:
        os.chown(self._at("chown", path), user, group)
        return 0

    def truncate(self, path: str, length: int, fh: int | None = None) -> int:
        os.truncate(self._at("truncate", path), length)
        return 0

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        os.utime(self._at("utimens", path), ns=times)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        found = os.statvfs(self._at("statfs", path))
        return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}

    def create(self, path: str, mode: int, flags: int | None = None) -> int:
        return os.open(self._at("create", path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at("open", path), flags & ~os.O_DIRECT)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        self._at("read", path)
        return os.pread(fh, size, offset)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        self._at("write", path)
        return os.pwrite(fh, data, offset)

    def flush(self, path: str, fh: int) -> int:
        self._at("flush", path)
        return 0

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        self._at("fsync", path)
        os.fsync(fh)
        return 0

    def fsyncdir(self, path: str, datasync: int, fh: int) -> int:
        self._at("fsyncdir", path)
        return 0

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def _flock(self, locks: str, path: str, fh: int, operation: int) -> int:
        self._at("flock", path)
        if locks == "none":
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        fcntl.flock(fh, operation)
        return 0


def serve(folder: str, mount: str, options: str) -> None:
    from mfusepy import FUSE

    wanted = dict(option.split("=") for option in options.split(","))
    faults = Faults()
    threading.Thread(target=faults.answer, daemon=True).start()
    operations = PassThrough(folder, faults, wanted["locks"])
    # No other cache than the one that is asked for: each operation arrives here.
    caches = {"entry_timeout": 0, "attr_timeout": 0, "negative_timeout": float(wanted["absent"])}
    FUSE(operations, mount, foreground=True, nothreads=True, use_ino=True, **caches)


if __name__ == "__main__":
    serve(*sys.argv[1:])
