"""Waiting for what other processes do, however busy the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 4  # times as long may everything take where other work keeps the machine busy


def wait_for(
    what: str,
    true: Callable[[], object],
    seconds: float = 60,
    log: Callable[[], str] = str,
    every: float = 0.2,
) -> None:
    """Wait until `true()`; AssertionError with the end of `log()` after PATIENCE times the seconds of a free machine."""
    end = time.monotonic() + PATIENCE * seconds
    while not true():
        assert time.monotonic() < end, (
            f"not within {PATIENCE * seconds:.0f} s: {what}\n{log()[-3000:]}"
        )
        time.sleep(every)
