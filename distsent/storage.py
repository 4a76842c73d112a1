"""What is on storage that may fail, or that other hosts write too.

`Path.exists`, `is_file`, `glob` and their like say no, or nothing, when storage fails (which of
them, and at which errors, depends on the version of Python). A run would start over, or go on
without its checks. Here only "no such file" means absent; everything else is an OSError.
"""

import errno
import glob
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
# Shared storage caches the absence of a file: NFS up to a minute, unless it is mounted otherwise
APPEARS = 90.0  # seconds within which a file that another host has written must be there


def mode_of(path: str | os.PathLike[str]) -> int | None:
    """The mode of a file or folder; None if there is none. Raises OSError."""
    try:
        return os.stat(path).st_mode
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return None
    except ValueError:  # a null byte
        return None


def exists(path: str | os.PathLike[str]) -> bool:
    return mode_of(path) is not None


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a regular file: reading a device or a pipe might never end."""
    return stat.S_ISREG(mode_of(path) or 0)


def is_folder(path: str | os.PathLike[str]) -> bool:
    return stat.S_ISDIR(mode_of(path) or 0)


def entries(folder: str | os.PathLike[str]) -> list[Path]:
    """What is in a folder, sorted; nothing if there is no such folder. Raises OSError."""
    try:
        with os.scandir(folder) as found:
            return sorted(Path(entry.path) for entry in found)
    except OSError as error:
        if error.errno not in ABSENT:
            raise
        return []


def matches(pattern: Path) -> list[Path]:
    """What a pattern of the shell names, sorted; `**` stands for any folders. Raises OSError.

    As in the shell, `*` does not name hidden files.
    """
    wild = next((i for i, part in enumerate(pattern.parts) if glob.has_magic(part)), None)
    if wild is None:
        return [pattern] if exists(pattern) else []
    return sorted(set(_below(Path(*pattern.parts[:wild]), pattern.parts[wild:])))


def _below(top: Path, parts: Sequence[str]) -> Iterator[Path]:
    """What the parts of a pattern name in the folder `top`."""
    if not parts:
        yield top
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _below(top, rest)
    if not glob.has_magic(part):
        found = [top / part] if exists(top / part) else []
    else:
        inside = [path for path in entries(top) if part[0] == "." or path.name[0] != "."]
        found = [path for path in inside if fnmatchcase(path.name, part)]
    for path in found:
        if part != "**":
            yield from _below(path, rest)
        elif is_folder(path):
            yield from _below(path, parts)
        elif not rest:
            yield path


def walk(folder: Path) -> Iterator[Path]:
    """All that is below a folder, and then the folder itself. Raises OSError."""
    for path in entries(folder):
        if is_folder(path) and not path.is_symlink():
            yield from walk(path)
        else:
            yield path
    yield folder


def appears(ready: Callable[[], bool], folder: Path, seconds: float | None = None) -> bool:
    """Wait until what another host has just written is there. Whether it is.

    Opening `folder`, the one that it is in, makes NFS ask its server again.
    """
    until = time.monotonic() + (APPEARS if seconds is None else seconds)
    pause = 0.05
    while not ready():
        if time.monotonic() >= until:
            return False
        time.sleep(pause)
        pause = min(2 * pause, 2.0)
        for above in (folder.parent, folder):
            entries(above)
    return True


def nearest_parent(path: Path) -> Path:
    """The first folder above `path` that exists, or what is there in its place. Raises OSError."""
    path = path.absolute()
    return next(filter(exists, path.parents), path)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Give errors of an open file the name of the file: only those of `open` have it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to disk. Raises OSError.

    Without it, a rename may reach the disk before the content of the renamed file.
    """
    with named(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some file systems cannot flush a folder: then its entries are as safe as they get
            if error.errno != errno.EINVAL or not stat.S_ISDIR(os.fstat(descriptor).st_mode):
                raise
        finally:
            os.close(descriptor)
