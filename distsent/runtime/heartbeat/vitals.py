"""What this process reports of itself in each heartbeat."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace

import psutil

from distsent.distributed.network import machine
from distsent.distributed.progress import Position, Progress
from distsent.runtime.heartbeat.protocol import INTERVAL, Beat, Hello
from distsent.runtime.launcher_watch import is_stopped, launchers
from distsent.runtime.signals import StopSignal


class Vitals:
    """Create it where all workers have entered the same collectives: it counts from there."""

    def __init__(self, rank: int, progress: Progress, stop: StopSignal) -> None:
        self._rank, self._progress, self._stop = rank, progress, stop
        self._before = progress.position.entered
        self._clock: int | None = None
        with suppress(OSError, AttributeError):
            self._clock = time.pthread_getcpuclockid(threading.main_thread().ident or 0)
        self._used, self._at = self._cpu_seconds(), time.monotonic()
        self._computing = False

    def hello(self) -> Hello:
        return own_hello(self._rank)

    @property
    def position(self) -> Position:
        position = self._progress.position
        return replace(position, entered=position.entered - self._before)

    @property
    def entered(self) -> list[str]:
        """The last collectives that this worker has entered, since it was created."""
        names = self._progress.recent
        return names[-self.position.entered :] if self.position.entered else []

    def beat(self) -> Beat:
        used, now = self._cpu_seconds(), time.monotonic()
        if now - self._at >= INTERVAL / 2:
            self._computing = used - self._used > (now - self._at) / 2
            self._used, self._at = used, now
        held = any(is_stopped(launcher) for launcher in launchers())
        return Beat(self.position, self._computing, held, self._stop.requested)

    def _cpu_seconds(self) -> float:
        """Of the main thread."""
        return 0.0 if self._clock is None else time.clock_gettime(self._clock)


def own_hello(rank: int) -> Hello:
    """Who this process is."""
    started = psutil.Process().create_time()
    return Hello(rank, socket.gethostname(), machine(), os.getpid(), started)
