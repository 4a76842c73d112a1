"""The end of a process whose main thread may wait forever."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn

from distsent.errors import FAILED
from distsent.runtime.heartbeat.stacks import LIMIT, within


def report_and_exit(
    rank: int, message: str, report: Callable[[], object], farewell: Callable[[], object]
) -> NoReturn:
    """Print, report, say farewell, exit. Stderr and storage may hang: they cannot hold it up."""
    text = "".join(f"distsent: rank {rank}: {line}\n" for line in message.splitlines())
    within(LIMIT, lambda: os.write(2, text.encode(errors="replace")), report)
    farewell()
    os._exit(FAILED)
