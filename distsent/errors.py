"""What ends a program on purpose, and the exit code that says so."""

FINISHED, FAILED, WRONG, NON_FINITE, STOPPED = 0, 1, 2, 3, 75


class UserError(Exception):
    """What the user got wrong, one line per mistake; a door prints the lines and exits with `code`."""

    def __init__(self, *lines: str, code: int = WRONG) -> None:
        super().__init__(*lines)
        self.lines = lines
        self.code = code  # FAILED: nothing is wrong with the job, so that the same may go well later

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Crashed(RuntimeError):
    """What went wrong on some worker, and all have learned of: each of them raises it."""


class Stopped(Exception):
    """Somebody asked the run to stop (a signal); everything is saved, the same command carries on."""


class NonFinite(Exception):
    """The loss or the gradient is no number any more; str() says where."""
