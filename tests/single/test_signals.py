"""What a process takes for a wish to stop, and what for the second one, which leaves at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import os, signal, time
from distsent.runtime import signals
stop.ECHO = 0.2
mine = stop.StopSignal()
{lines}
time.sleep(0.2)
print(mine.requested)
"""
TERM, USR1, PAUSE = (
    "os.kill(os.getpid(), signal.SIGTERM)",
    "os.kill(os.getpid(), signal.SIGUSR1)",
    "time.sleep(0.5)",
)


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        ([TERM], 0),
        ([TERM, TERM], 0),  # within ECHO it is the same one again
        ([TERM, PAUSE, TERM], 75),
        ([USR1, PAUSE, USR1], 0),
        (
            ["mine.ask('SIGTERM at rank 1')", PAUSE, TERM],
            0,
        ),  # another worker's signal, then the own first one
        (["mine.ask('SIGTERM at rank 1')", PAUSE, TERM, PAUSE, TERM], 75),
    ],
)
def test_only_a_second_signal_of_its_own_leaves_at_once(lines: list[str], code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(lines="\n".join(lines))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stderr
    assert (done.stdout != "") == (code == 0)
    if code == 0:
        assert done.stdout.strip() == (
            "SIGTERM at rank 1" if "rank" in lines[0] else lines[0].rpartition(".")[2].rstrip(")")
        )
