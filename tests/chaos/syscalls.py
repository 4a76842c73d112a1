"""Run a function in a child process and kill it at its k-th system call, from Python, Rust or C."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable
from contextlib import suppress

TRACE_ME, SYSCALL = 0, 24  # PTRACE_TRACEME, PTRACE_SYSCALL


def kill_at_syscall(call: int | None, work: Callable[[], object]) -> int | None:
    """Kill `work` at the `call`-th stop: each entry into and return from a system call is one.

    Returns None if it was killed, else the number of stops. Raises OSError if tracing is forbidden.
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
    count = 0
    while True:
        if ptrace(SYSCALL, child, 0, 0) != 0:
            error = ctypes.get_errno()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise OSError(error, os.strerror(error))
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
            return count
        if os.WIFSIGNALED(status):
            return None
        count += 1
        if count == call:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
