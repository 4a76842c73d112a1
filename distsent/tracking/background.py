"""A tracker in the background: it may fail, hang or be missing, at the cost of a line of the log.

Events wait in a bounded queue for a daemon thread, which hands them to the tracker's own process.
"""

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import chain, repeat

from distsent.runtime.ownership import Owner
from distsent.tracking.events import Event, Listener, Started, to_line
from distsent.tracking.redact import redact

QUEUE = 1000  # events
PAUSES = (1.0, 4.0)  # seconds before the next tries of an event
START_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # and then once a minute


class Unusable(Exception):
    """Why the tracker gets no more events."""


class Background(Listener):
    """`say` gets lines for the log. What the start of a run that lost its folder says is dropped.

    The order of events is kept. If the tracker does not keep up, the oldest ones are dropped.
    """

    def __init__(self, name: str, owner: Owner, say: Callable[[str], None]) -> None:
        self._name, self._owner, self._say = name, owner, say
        self._waiting: deque[str] = deque(maxlen=QUEUE)
        self._changed = threading.Condition()
        self._stopping, self._done = threading.Event(), threading.Event()
        self._lost = 0  # events that the tracker did not get
        self._failing = self._sending = False
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None

    def hear(self, event: Event) -> None:
        if self._stopping.is_set() or self._owner.lost:
            return
        if isinstance(event, Started):
            work = threading.Thread(target=self._work, args=(event,), daemon=True, name=self._name)
            self._thread, self._sending = work, True
            work.start()
            return
        with self._changed:
            full = len(self._waiting) == QUEUE
            first = full and not self._lost
            self._lost += full
            self._waiting.append(to_line(event))
            self._changed.notify()
        if first:
            self._log("does not keep up; the oldest events are dropped")

    def stop(self) -> None:
        with self._changed:
            self._stopping.set()
            self._changed.notify()

    def close(self, until: float) -> None:
        self.stop()
        if self._thread is None:
            return
        answered = self._done.wait(max(0.0, until - time.monotonic()))
        with self._changed:
            lost = self._lost + len(self._waiting) + self._sending
        if lost:
            late = "" if answered else "does not answer; "
            self._log(f"{late}{lost} event{'s' * (lost > 1)} of this start not sent")
        self._thread = None
        if self._process is not None and not answered:
            self._process.kill()

    def _work(self, started: Started) -> None:
        command = [sys.executable, "-m", "distsent.tracking.child", self._name]
        pipe = subprocess.PIPE
        try:
            self._process = process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True,
                start_new_session=True,
            )  # fmt: skip
            with process:
                if self._thread is not None:  # not closed meanwhile
                    self._send_all(process, started)
                self._done.set()  # its exit may take longer: nobody waits for that
        except (Unusable, OSError) as problem:
            killed = self._thread is None  # by `close`, which has said so
            with self._changed:
                self._stopping.set()
                self._waiting.clear()
                self._lost, self._sending = 0, False
            if not killed:
                self._log(f"{problem}; the run goes on without it")
            self._done.set()

    def _send_all(self, process: "subprocess.Popen[str]", started: Started) -> None:
        """All events until `stop`, or until the tracker fails after that. Raises Unusable."""
        if not self._send(process, to_line(started), chain(START_PAUSES, repeat(60.0))):
            self._lost += 1
            return
        while (line := self._next()) is not None:
            self._lost += not self._send(process, line, PAUSES)

    def _next(self) -> str | None:
        """The next event; None after the last one."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopping.is_set())
            if not self._waiting or (self._failing and self._stopping.is_set()):
                return None
            self._sending = True
            return self._waiting.popleft()

    def _send(self, process: "subprocess.Popen[str]", line: str, pauses: Iterable[float]) -> bool:
        """Whether the tracker took the event. Raises Unusable."""
        for pause in chain(pauses, [None]):
            error = self._ask(process, line)
            if error is None:
                if self._failing:
                    self._log("works again")
                self._failing = self._sending = False
                return True
            if not self._failing:
                self._log(f"{error}; the run goes on, and it is tried again")
            self._failing = True
            if pause is None or self._stopping.wait(pause):
                break
        self._sending = False
        return False

    def _ask(self, process: "subprocess.Popen[str]", line: str) -> str | None:
        """What went wrong, None if nothing. Raises Unusable."""
        assert process.stdin is not None and process.stdout is not None
        answer = ""
        with suppress(OSError, ValueError):
            process.stdin.write(line)
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer:
            raise Unusable("its process ended")
        found = json.loads(answer)
        if found["final"]:
            raise Unusable(f"{found['error']}: pip install 'distsent[{self._name}]'")
        return found["error"]

    def _log(self, problem: str) -> None:
        self._say(f"tracker {self._name}: {redact(problem)}")
