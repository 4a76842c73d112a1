"""Being asked to stop: a signal sets a flag, and the loop leaves at its next step; a second SIGTERM or SIGINT leaves at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

from distsent.errors import STOPPED, Stopped
from distsent.runtime.launcher_watch import launchers

ECHO = 2.0  # seconds in which a repeated signal is the same one again: terminal and launcher both pass on a Ctrl-C
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
# Not the others: a drained node's worker and its launcher each pass on the wish to save, seconds apart.
URGENT = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """Whether this process was asked to stop. Make it first thing: imports and tokenising take a while, too.

    A thread hears the signals: Python's own handlers run in the main thread, which may sit in a collective for minutes.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._since: float | None = None  # when this process's own first signal came
        launchers()  # known from here on: a launcher may die while its workers import
        heard, self._told = socket.socketpair()
        self._told.setblocking(False)
        signal.set_wakeup_fd(self._told.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: None)
        threading.Thread(target=self._listen, args=(heard,), daemon=True, name="stop").start()

    def _listen(self, heard: socket.socket) -> None:
        while True:
            for number in heard.recv(64):
                self._hear(number)

    def _hear(self, number: int) -> None:
        if number not in SIGNALS:
            return
        self.request(signal.Signals(number).name)
        if (
            self._since is None
        ):  # what others asked for counts for nothing here: their workers' signals may come all at once
            self._since = time.monotonic()
        elif number in URGENT and time.monotonic() - self._since > ECHO:
            os._exit(STOPPED)

    def request(self, why: str) -> None:
        """Ask this process to stop, as a signal would."""
        self.requested = self.requested or why

    def raise_if_requested(self) -> None:
        """Raises Stopped if asked to: for places where no other worker waits for this one."""
        if self.requested is not None:
            raise Stopped(f"asked to stop by {self.requested}")
