"""The heartbeats of this process: what a training run opens and closes."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from distsent.distributed.network import machine
from distsent.distributed.world import WorkerLost, World
from distsent.errors import NonFinite, Stopped, UserError, WorkerFailed
from distsent.runtime.heartbeat import protocol
from distsent.runtime.heartbeat.actions import Actions
from distsent.runtime.heartbeat.addresses import listen, reachable
from distsent.runtime.heartbeat.client import Client
from distsent.runtime.heartbeat.ending import report_and_exit
from distsent.runtime.heartbeat.main_watch import Limits, MainWatch
from distsent.runtime.heartbeat.protocol import INTERVAL, Hello
from distsent.runtime.heartbeat.server import Server
from distsent.runtime.heartbeat.stacks import LIMIT, location, within, write_stacks
from distsent.runtime.heartbeat.vitals import Vitals, own_hello
from distsent.runtime.heartbeat.worker_watch import WorkerWatch
from distsent.runtime.launcher_watch import has_ended, launchers
from distsent.runtime.run_status import Cause
from distsent.runtime.signals import StopSignal


@dataclass(frozen=True)
class Watched:
    """What heartbeats need to know about a run.

    `stall_seconds`: without a heartbeat of a worker, or without progress of the run. `interface`:
    network interfaces to listen on, empty for all. `stacks`: a folder; None: stderr. `on_failure`:
    called on rank 0 with a message and the cause for `status.json`, before all workers exit.
    `advice`: the end of what is reported then.
    """

    stall_seconds: float
    interface: str
    stacks: Path | None
    on_failure: Callable[[str, Cause | None], None]
    log: Callable[[str], None]
    advice: str


class HeartbeatMonitor:
    """Sends and watches heartbeats between `connect` and `close`."""

    def __init__(self, world: World, run: Watched, stop: StopSignal) -> None:
        self._world, self._run, self._stop = world, run, stop
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._server: Server | None = None
        self._client: Client | None = None
        if launchers():
            threading.Thread(target=self._watch_launchers, daemon=True, name="launchers").start()

    def connect(self) -> None:
        """A collective: tell all workers where rank 0 listens. Raises UserError on all of them."""
        if self._world.size == 1:
            return
        one_machine = len({*self._world.allgather_object(machine(), "heartbeat.machines")}) == 1
        listeners: list[Any] = []

        def open_listeners() -> list[Any]:
            listeners.extend(listen(self._run.interface, one_machine))
            return [reachable(listeners), secrets.token_hex(16), asdict(own_hello(0))]

        addresses, token, main = self._world.on_main(open_listeners, "heartbeat.address")
        world, seconds = self._world, self._run.stall_seconds
        limits = Limits(seconds, world.elastic, str(self._run.stacks or "stderr"))
        vitals = Vitals(world.rank, world.progress, self._stop)
        actions = self._actions(vitals)
        if world.is_main:
            server = self._server = Server(listeners, token, world.size)
            server.start(MainWatch(server, vitals, self._stop, limits, actions))
        else:
            pairs = [(host, port) for host, port in addresses]
            client = self._client = Client(pairs, token, seconds, vitals)
            client.start(WorkerWatch(client, vitals, Hello(**main), limits, actions))

    def close(self) -> None:
        """Leave in good order, so that the end of this process is not taken for a death."""
        self._close(None)

    def failed(self, error: BaseException) -> None:
        """Before `close`, if this worker fails: the others end with an error that is its own."""
        if isinstance(error, UserError | Stopped | NonFinite | WorkerFailed):
            return  # of all workers together
        if not isinstance(error, WorkerLost):
            self._close(" ".join(f"{type(error).__name__}: {error}".split()))
        elif self._server is not None or self._client is not None:
            # A heartbeat may exit with the name of the worker that made the collective fail.
            self._closing.wait(5 * INTERVAL)

    def _close(self, error: str | None) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
        if self._server is not None and error is not None and not self._world.elastic:
            self._say_failed(error)
            self._server.close(protocol.FAILED)
        elif self._server is not None:
            self._server.close()
        if self._client is not None:
            self._client.close(error)

    def _actions(self, vitals: Vitals) -> Actions:
        show_stacks = partial(self._show_stacks, vitals)
        fail = self._world.fail_collectives
        return Actions(self._end, self._leave, self._log, show_stacks, fail)

    def _watch_launchers(self) -> None:
        while not self._closing.wait(INTERVAL):
            if any(has_ended(launcher) for launcher in launchers()):
                return self._stop.request("launcher exit")

    # Actions. They run in threads of heartbeats, which must not block

    def _end(self, message: str, cause: Cause | None) -> None:
        """Report, and exit at once: the main thread may wait in a collective that never returns."""
        with self._lock:
            if self._closing.is_set():
                return
            message, server = f"{message}; {self._run.advice}", self._server
            report: Callable[[], object] = int
            if server is not None:
                server.release_spare()
                one_line = "; ".join(message.splitlines())
                report = partial(self._run.on_failure, one_line, cause)
            report_and_exit(self._world.rank, message, report, self._say_end)

    def _leave(self, message: str) -> None:
        report_and_exit(self._world.rank, message, int, int)

    def _say_failed(self, error: str) -> None:
        """On rank 0, before the others end: a launcher may leave no time for anything after."""
        at = f"on {own_hello(0).host} failed at step {self._world.progress.position.step}"
        line = f"rank 0 {at}: {error}"[: protocol.LONGEST_TEXT]
        text = f"distsent: rank 0: {line}; {self._run.advice}\n"
        within(LIMIT, lambda: os.write(2, text.encode(errors="replace")))

    def _say_end(self) -> None:
        if self._server is not None:
            self._server.send(protocol.END)
            self._server.flush(INTERVAL / 2)

    def _log(self, line: str) -> None:
        """In the log, which rank 0 has, or on stderr."""
        rank, main = self._world.rank, self._world.is_main
        text = f"distsent: rank {rank}: {line}\n".encode(errors="replace")
        within(0.0, (lambda: self._run.log(line)) if main else (lambda: os.write(2, text)))

    def _show_stacks(self, vitals: Vitals) -> str:
        position = vitals.position
        where = f"step {position.step}, {position.phase}"
        folder, rank = self._run.stacks, self._world.rank
        within(0.0, lambda: write_stacks(folder, rank, where))
        return location(position.phase)
