"""Waiting for other processes, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 4  # the factor by which other work on the machine may slow everything down


def wait_for(
    what: str,
    true: Callable[[], object],
    seconds: float = 60,
    log: Callable[[], str] = str,
    every: float = 0.2,
) -> None:
    """Wait until `true()`, at most PATIENCE times `seconds`, the time on an idle machine.

    Raises AssertionError with the end of `log()`.
    """
    end = time.monotonic() + PATIENCE * seconds
    while not true():
        assert time.monotonic() < end, (
            f"not within {PATIENCE * seconds:.0f} s: {what}\n{log()[-3000:]}"
        )
        time.sleep(every)
