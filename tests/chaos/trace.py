"""Run a function in a child process and kill it at its k-th system call, whatever makes the call: Python, Rust or C."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress

TRACE_ME, SYSCALL = 0, 24  # PTRACE_TRACEME, PTRACE_SYSCALL


def die_at(call: int | None, work: Callable[[], object]) -> int | None:
    """Kill `work` when the kernel is told of its `call`-th entry into, or return from, a system call.

    Returns None if it was killed, else how many there were. Raises OSError where this system lets nobody trace.
    """
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            if ptrace(TRACE_ME, 0, 0, 0) == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
                work()
                os._exit(0)
        os._exit(1)
    os.waitpid(child, os.WUNTRACED)
    seen = 0
    while True:
        if ptrace(SYSCALL, child, 0, 0) != 0:
            error = ctypes.get_errno()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise OSError(error, os.strerror(error))
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
            return seen
        if os.WIFSIGNALED(status):
            return None
        seen += 1
        if seen == call:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
