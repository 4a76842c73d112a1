"""Trouble with the machine (disk, network, memory), as opposed to a wrong job.

Trying again may help, so it never ends a program with "the job is wrong". A launcher would give the
job up.
"""

import errno
import os
import re
from collections.abc import Iterator

# What a wrong path, a missing permission or a damaged file leads to. All others are trouble
OF_THE_JOB = frozenset(
    (
        errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP,
        errno.ENAMETOOLONG, errno.EINVAL, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENXIO,
        errno.ESPIPE, errno.EILSEQ, errno.EXDEV, errno.EBADF, errno.ENOTTY, errno.ENOSYS,
        errno.EOPNOTSUPP, errno.ENOLCK,
    )
)  # fmt: skip
NOT_PERMITTED = errno.EACCES, errno.EPERM
NO_SPACE = errno.ENOSPC, errno.EDQUOT
# Libraries in Rust, Arrow and torch put the number into the text alone
IN_TEXT = re.compile(
    r"\((?:os error|errno:?) (\d+)\)|\[errno (\d+)\]|>: [a-z ]+ \((\d+)\)$", re.IGNORECASE
)
# Of torch's allocators, CUDA and its libraries, NCCL
OUT_OF_MEMORY = re.compile(
    r"can't allocate memory|out of memory|bad_alloc|_ALLOC_FAILED|MemoryAllocation", re.IGNORECASE
)
CLIENTS = (
    "ssl",
    "httpx",
    "httpcore",
    "requests",
    "urllib3",
    "aiohttp",
)  # their errors name a network
ANSWERS = range(400, 500)  # HTTP: the request is wrong; trying again gives the same answer
BUSY = 408, 425, 429
OFFLINE = "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from or in the handling of, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def errno_of(error: BaseException | None) -> int | None:
    """The system's number in an error or in one that led to it; None if there is none."""
    for link in chain(error):
        if (number := _own_errno(link)) is not None:
            return number
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is the system's, CUDA's or a library's word for: no memory is left.

    It is no trouble that passes: the same command would end in the same way.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):  # mmap's, under `ulimit -v` or vm.overcommit_memory=2
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error)))


def is_trouble(error: BaseException) -> bool:
    """Whether this error itself, apart from what led to it, is trouble with the machine."""
    number, status = _own_errno(error), _http_status(error)
    if status is not None:
        return status not in ANSWERS or status in BUSY
    if _is_of_network(error) and (number is None or number in NOT_PERMITTED):
        return not _offline_on_request()
    if number in NOT_PERMITTED:
        return isinstance(error, OSError) and not _is_denied(error)
    if number is not None:
        return number not in OF_THE_JOB
    return isinstance(error, FileNotFoundError) and _is_there(error)


def _is_there(error: FileNotFoundError) -> bool:
    """Whether the file exists: safetensors says that of any file that it cannot open."""
    return os.path.exists(str(error).removeprefix("No such file or directory: "))


def _is_denied(error: OSError) -> bool:
    """Whether it is a missing permission: then a second attempt fails, too.

    Shared storage also says so for a while, while it has lost a ticket or a server.
    """
    if error.filename is None:  # of an open file: it was permitted to open it
        return error.strerror != os.strerror(error.errno or 0)
    path = os.path.abspath(os.fsdecode(error.filename))
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        return False
    except FileNotFoundError:
        while not os.path.exists(path) and path != os.path.dirname(path):
            path = os.path.dirname(path)
        return not os.access(path, os.W_OK | os.X_OK)
    except OSError as again:
        return again.errno in NOT_PERMITTED


def _own_errno(error: BaseException) -> int | None:
    if isinstance(error, OSError) and isinstance(error.errno, int):
        return error.errno
    if isinstance(error, ValueError | LookupError):  # may quote what a file contains
        return None
    found = IN_TEXT.search(str(error))
    return int(found[1] or found[2] or found[3]) if found else None


def _http_status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_of_network(error: BaseException) -> bool:
    modules = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or not modules.isdisjoint(CLIENTS)


def _offline_on_request() -> bool:
    """Whether the user forbade the network: what is missing stays missing."""
    return any(os.environ.get(name, "0").lower() not in ("", "0", "no", "off") for name in OFFLINE)
