"""The process of one tracker:  python -m distsent.tracking.child NAME

Reads an event per line and answers each with a line: {"error": text or null, "final": whether a
second try is useless}. A tracker's library imports for seconds, prints, asks for passwords, waits
for servers and installs hooks for the exit: here none of that reaches the run.
"""

import importlib
import json
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress

from distsent.machine_errors import errno_of
from distsent.tracking.events import Listener, from_line

LEFT = 10.0  # seconds to end in after the run is gone


def main(name: str) -> None:
    ignore_signals()
    with suppress(OSError):
        os.nice(5)  # training takes precedence
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    threading.Thread(target=exit_after_the_run, daemon=True).start()
    tracker: Listener | None = None
    for line in sys.stdin:
        error, final = None, False
        try:
            tracker = tracker or importlib.import_module(f"distsent.tracking.{name}").Tracker()
            tracker.hear(from_line(line))
        except ImportError as missing:
            error, final = f"not installed ({missing})", True
        except Exception as failure:
            error = reason(failure)
        answers.write(json.dumps({"error": error, "final": final}) + "\n")
        answers.flush()


def reason(failure: Exception) -> str:
    """The system's reason stands first: libraries wrap it in several others."""
    number = errno_of(failure)
    why = f" ({os.strerror(number)})" if number is not None else ""
    return f"{type(failure).__name__}{why}: {failure}"


def ignore_signals() -> None:
    """Those that ask the run to stop: it still has events to send, and then closes the pipe."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def exit_after_the_run() -> None:
    """Once the pipe is closed, a tracker that hangs does not stay."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    while not poll.poll(1000):
        pass
    time.sleep(LEFT)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
