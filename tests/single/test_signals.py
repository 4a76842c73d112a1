"""Which signals are stop requests, and which second signal exits at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, signal, time
from distsent.runtime import signals
signals.DUPLICATE_WINDOW = 0.2
stop = signals.StopSignal()
{lines}
time.sleep(0.2)
print(stop.requested)
"""
TERM = "os.kill(os.getpid(), signal.SIGTERM)"
USR1 = "os.kill(os.getpid(), signal.SIGUSR1)"
OTHER = "stop.request('SIGTERM on rank 1')"  # as the heartbeat does for another worker's signal
PAUSE = "time.sleep(0.5)"


@pytest.mark.parametrize(
    ("lines", "code", "reason"),
    [
        ([TERM], 0, "SIGTERM"),
        ([TERM, TERM], 0, "SIGTERM"),  # a duplicate
        ([TERM, PAUSE, TERM], 75, None),
        ([USR1, PAUSE, USR1], 0, "SIGUSR1"),
        ([OTHER, PAUSE, TERM], 0, "SIGTERM on rank 1"),  # this process's first signal
        ([OTHER, PAUSE, TERM, PAUSE, TERM], 75, None),
    ],
)
def test_only_a_second_signal_to_the_same_process_exits_at_once(
    lines: list[str], code: int, reason: str | None
) -> None:
    command = [sys.executable, "-c", CODE.format(lines="\n".join(lines))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert done.stdout == ("" if reason is None else f"{reason}\n")
