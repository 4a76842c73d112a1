"""The exceptions that end a program on purpose, and their exit codes.

4: an export failed its check (exporting/gate.py). 75: a signal asked the run to stop
(runtime/signals.py) and it saved. What a launcher does after an exit is in exit_policy.py.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from distsent.machine_errors import chain, is_out_of_memory, is_trouble

# In torch's messages of the CPU and of CUDA
ASKED_FOR = re.compile(r"tried to allocate (\d[\d.]* ?(?:bytes|[KMGT]i?B))", re.IGNORECASE)
MORE_MEMORY = "use fewer workers on each machine, or machines with more memory"

FINISHED, FAILED, USAGE_ERROR, NON_FINITE, NOT_EXPORTED, STOPPED = 0, 1, 2, 3, 4, 75


class UserError(Exception):
    """Mistakes in the job or the command line, one line each. Programs print them and exit.

    `code`: USAGE_ERROR, or FAILED where trying again may help. Unless it is given, it follows from
    the errors that led to this one (see `exit_code`).

    `fix`: keys with the values that repair all of it; programs print the command. `others`: keys
    that would repair it as well, where only the user knows which values are right.
    """

    def __init__(
        self,
        *lines: str,
        code: int | None = None,
        fix: Mapping[str, Any] | None = None,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(*lines)
        self.lines = lines
        self._code = code
        self.fix = dict(fix or {})
        self.others = [dict(keys) for keys in others]

    @property
    def code(self) -> int:
        return exit_code(self) if self._code is None else self._code

    def __str__(self) -> str:
        return "\n".join(self.lines)


def out_of_memory(error: BaseException, doing: str, fix: str) -> UserError:
    """One line for an error that `is_out_of_memory`. Raises it again if it is another one."""
    if not is_out_of_memory(error):
        raise error
    said = " ".join(str(error).split())
    if asked := ASKED_FOR.search(said):
        said = f"no {asked[1]} more"
    return UserError(
        f"out of memory while {doing} ({said[:80] or 'no more'}); {fix}", code=USAGE_ERROR
    )


class HostError(UserError):
    """What is wrong with one host, before its workers are connected: rank 0 may not see it."""


class WorkerFailed(RuntimeError):
    """Another worker failed. All workers learn of it and raise this."""

    code = FAILED


class Stopped(Exception):
    """A signal asked the run to stop. Everything is saved; the same command resumes."""

    code = STOPPED


class NonFinite(Exception):
    """The loss or the gradient became NaN or infinite; str() says where."""

    code = NON_FINITE


def exit_code(error: BaseException) -> int:
    """FAILED for trouble with the machine, USAGE_ERROR for a wrong job.

    What led to `error` decides: the first error in the chain with a code, or that is trouble.
    """
    for link in chain(error):
        code = link._code if isinstance(link, UserError) else None
        if code is not None:
            return code
        if is_trouble(link):
            return FAILED
    return USAGE_ERROR
