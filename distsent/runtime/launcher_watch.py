"""The launchers among this process's ancestors. Workers must not train on without them."""

import os
from contextlib import suppress
from functools import cache

import psutil

from distsent.distributed.launchers import PROGRAMS


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
        words = [word.split()[0] for word in process.cmdline()[:3] if word.split()]
    except psutil.Error:
        return False
    command = " ".join(os.path.basename(word) for word in words)
    return any(name in command for name in PROGRAMS)


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
