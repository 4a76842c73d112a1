"""Memory that was freed goes back to the system, also where it lies between blocks in use.

glibc's malloc keeps it for later. After a step, it kept half as much again as the step had in use,
which the merged weights of an adapter came on top of.
"""

import ctypes
from contextlib import suppress


def trim_heap() -> None:
    """Takes milliseconds; later blocks are new pages again. Other C libraries keep what they do."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
