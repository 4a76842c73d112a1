"""Stop requests: a signal sets a flag, and the program stops at its next check.

A request may reach any one worker, but all must stop together, or the others would wait forever.
It travels between workers:

- In training: in control slots, which every step all-reduces. That costs no message of its own, and
  all workers leave after the same step.
- Between steps and while data and model are loaded: over the heartbeat, from any worker to the
  main one, which does the long work there.
- In an evaluation: in a small all-reduce after each batch. It takes too long to finish first.
- While the main worker tokenizes: its progress callback raises Stopped. The other workers wait
  in a collective and receive that exception (`World.on_main`).

Programs that have nothing to save check the flag too, but not while they load or import. There the
process just ends, after a grace time, unless others wait for it: workers stop together.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from distsent.distributed.launchers import find_launch, is_main_process
from distsent.distributed.world import World
from distsent.errors import STOPPED, Stopped, UserError
from distsent.runtime.launcher_watch import launchers

SIGNALS = (
    signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGXCPU, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
# A second one of these exits at once: somebody is waiting. The others never do: when a node drains,
# its worker and the launcher each forward the request to save, seconds apart, and SIGXCPU repeats
# every second.
URGENT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Seconds within which a repeated signal counts as the same one: on Ctrl-C, both the terminal and
# the launcher send it, and a closed terminal sends SIGHUP from its shell too.
DUPLICATE_WINDOW = 2.0
GRACE = 5.0  # seconds: shorter than the launchers' own patience


class StopSignal:
    """Whether a stop was requested. Create it first: imports and tokenizing take long.

    A thread receives the signals, because Python runs signal handlers in the main thread, which
    may wait in a collective for minutes. `grace`: seconds after a signal at which this thread ends
    the process, unless a check has noticed the request; None for a process that has to save.
    """

    def __init__(self, grace: float | None = None) -> None:
        self.grace = grace
        self.requested: str | None = None  # the reason
        self._urgent_since: float | None = None  # when this process itself received one of URGENT
        launchers()  # cached before the imports: a launcher may die during them
        received, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup
                signal.signal(number, lambda number, frame: None)
        thread = threading.Thread(target=self._listen, args=(received,), daemon=True, name="stop")
        thread.start()

    def _listen(self, received: socket.socket) -> None:
        while True:
            for number in received.recv(64):
                if number in SIGNALS:
                    self._handle(number)

    def _handle(self, number: int) -> None:
        if self.requested is None and self.grace is not None:
            timer = threading.Timer(self.grace, self._end)
            timer.daemon = True
            timer.start()
        self.request(signal.Signals(number).name)
        if number not in URGENT:
            return
        # Requests from other workers do not count: signals may reach all workers at once.
        if self._urgent_since is None:
            self._urgent_since = time.monotonic()
        elif time.monotonic() - self._urgent_since > DUPLICATE_WINDOW:
            os._exit(STOPPED)

    def _end(self) -> None:
        """End the process at the end of the grace time, even if standard error blocks."""
        if self.grace is None:
            return
        line = f"distsent: {self}; run the same command again\n"
        if is_main_process():
            write = threading.Thread(target=os.write, args=(2, line.encode()), daemon=True)
            write.start()
            write.join(1.0)
        os._exit(STOPPED)

    def __str__(self) -> str:
        return f"stop requested: {self.requested}"

    def request(self, reason: str) -> None:
        """Request a stop, as a signal does. The first reason is kept."""
        self.requested = self.requested or reason

    def raise_if_requested(self) -> None:
        """Raises Stopped on request. Only for places where no other worker waits for this one."""
        if self.requested is not None:
            raise Stopped(str(self))

    def ignore_further(self) -> None:
        """The run has ended: no signal may change its exit code while Python exits."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def grace() -> float | None:
    """The grace time of a program that has nothing to save; None for one of several workers."""
    try:
        return GRACE if find_launch().size == 1 else None
    except UserError:  # which the program itself reports
        return GRACE


@contextmanager
def resumable(world: World, stop: StopSignal) -> Iterator[None]:
    """Within it runs what the same command resumes. Leaves the world however it ends."""
    try:
        yield
    except Stopped as error:
        raise Stopped(f"{error}; run the same command again to resume") from None
    finally:
        world.shutdown()
        stop.ignore_further()
