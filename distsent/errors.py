"""The exceptions that end a program on purpose, and their exit codes.

75: a signal asked the run to stop (runtime/signals.py) and it saved. What a launcher does after an
exit is in exit_policy.py.
"""

from collections.abc import Mapping, Sequence
from typing import Any

FINISHED, FAILED, USAGE_ERROR, NON_FINITE, STOPPED = 0, 1, 2, 3, 75


class UserError(Exception):
    """Mistakes in the job or the command line, one line each. Programs print them and exit.

    `fix`: keys with the values that repair all of it; programs print the command. `others`: keys
    that would repair it as well, where only the user knows which values are right.
    """

    def __init__(
        self,
        *lines: str,
        code: int = USAGE_ERROR,
        fix: Mapping[str, Any] | None = None,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(*lines)
        self.lines = lines
        self.code = code  # FAILED: the job is fine, so trying again may help
        self.fix = dict(fix or {})
        self.others = [dict(keys) for keys in others]

    def __str__(self) -> str:
        return "\n".join(self.lines)


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
