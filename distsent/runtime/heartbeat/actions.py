"""What a conclusion from heartbeats leads to."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

from distsent.runtime.heartbeat.protocol import Hello
from distsent.runtime.run_status import Cause


@dataclass(frozen=True)
class Actions:
    """None of them may block."""

    end: Callable[[str, Cause | None], None]  # report, and end all workers
    leave: Callable[[str], None]  # elastic: report, and end this worker alone
    log: Callable[[str], None]
    show_stacks: Callable[[], str]  # write this process's, and return where it is
    fail_collectives: Callable[[], None]  # elastic: of this worker, so that it rejoins the others


def kill(worker: Hello) -> None:
    """End a worker's process on this machine, frozen or not."""
    with suppress(OSError, psutil.Error):
        if psutil.Process(worker.process).create_time() == worker.started:
            os.kill(worker.process, signal.SIGKILL)
