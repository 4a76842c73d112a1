"""The launchers among this process's ancestors. Workers must not train on without them."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache

import psutil

from distsent.distributed.launchers import PROGRAMS

# As Debian names those of one MPI, as MPICH does, and as slurmstepd names itself
NAME = re.compile(rf"({'|'.join(map(re.escape, PROGRAMS))})(\.py|\.openmpi|\.mpich|\.hydra|:)?")
WITH_VALUE = ("-X", "-W", "-o", "-O")  # options of Python and of shells


@cache
def launchers() -> list[psutil.Process]:
    """Ancestors of this process that are launchers, as of the first call.

    Call it early: a launcher that dies before the first call goes unnoticed.
    """
    with suppress(psutil.Error):
        return [process for process in psutil.Process().parents() if is_launcher(process)]
    return []


def is_launcher(process: psutil.Process) -> bool:
    """Whether the command names a launcher: as its program or as the script that it runs.

    horovodrun over MPI has become `sh -c "mpirun ..."`: that shell is the process to watch.
    """
    try:
        found = [*_programs(process.cmdline())]
    except psutil.Error:
        return False
    return any(NAME.fullmatch(os.path.basename(name)) for name in found)


def _programs(words: Sequence[str]) -> Iterator[str]:
    """The program of a command line, and the script, module or command that it runs."""
    rest = iter(words)
    yield from next(rest, "").split()[:1]
    for word in rest:
        name = word.removeprefix("-m") or word  # python -mtorch.distributed.run
        if word in WITH_VALUE:
            next(rest, None)
        elif not name.startswith("-"):
            yield from name.split()[:1]
            return


def is_stopped(process: psutil.Process) -> bool:
    """Whether the process is stopped, by Ctrl-Z for example."""
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False


def has_ended(process: psutil.Process) -> bool:
    """Whether the process is gone, a zombie, or replaced by another one with the same id."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error as error:  # AccessDenied: alive
        return isinstance(error, psutil.NoSuchProcess)
