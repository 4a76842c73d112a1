"""Heartbeats: every second, each worker reports to the main worker that it is alive, and its step.

A collective waits forever for a worker that died or hangs. With heartbeats, a death shows at once
(its connection closes) and a hang after `run.stall_seconds`. Then all workers log which worker it
was, and exit. Plain TCP between the workers' hosts, a few bytes per second.
"""

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from distsent.distributed.world import World
from distsent.errors import FAILED
from distsent.runtime.launcher_watch import has_ended, launchers
from distsent.runtime.run_status import WORKER_DIED, WORKER_LOST, Cause
from distsent.runtime.signals import StopSignal

OnFailure = Callable[[str, Cause | None], None]
INTERVAL = 1.0  # seconds between heartbeats
# The protocol. A worker sends the token, [rank, host] as JSON, then one line per heartbeat:
# "<step>" or "<step> <reason of a stop request>". Each is answered with ".". The last line is:
FAREWELL = "bye"
FAILURE = "failed: "  # and the error


@dataclass
class Peer:
    """What the main worker knows about another worker."""

    rank: int
    host: str
    last_heard: float
    step: int = 0


class HeartbeatMonitor:
    """Sends and watches heartbeats until it is closed.

    `deadline`: seconds without a heartbeat after which a worker counts as hung. `on_failure`:
    called once on the main worker, with a message and the cause for `status.json`, before all
    workers exit. `stop`: gets a request when the launcher ends and from other workers.
    """

    step = 0  # set by the training loop

    def __init__(
        self, world: World, deadline: float, on_failure: OnFailure, stop: StopSignal
    ) -> None:
        self._world, self._deadline = world, deadline
        self._on_failure, self._stop = on_failure, stop
        self._silent = f"sent no heartbeat for {deadline:g} s"
        self._closing, self._lock = threading.Event(), threading.Lock()
        self._last_line = FAREWELL
        self._peers: dict[int, Peer] = {}
        self._sender: threading.Thread | None = None  # on all workers but the main one
        if launchers():
            self._start_thread(self._watch_launchers)
        # In an elastic run the collectives fail when a worker dies, and the others continue.
        if world.size > 1 and not world.elastic:
            self._connect_workers()

    def _connect_workers(self) -> None:
        address: Any = None
        if self._world.is_main:
            server = socket.create_server(("", 0), backlog=self._world.size, family=socket.AF_INET)
            token = secrets.token_hex(8)  # keeps strangers out
            address = [host_addresses(), server.getsockname()[1], token]
        hosts, port, token = self._world.allgather_object(address, "heartbeat.address")[0]
        if self._world.is_main:
            self._start_thread(self._accept, server, token)
            self._start_thread(self._check_deadlines)
        else:
            self._sender = self._start_thread(self._send_heartbeats, hosts, port, token)
        self._world.barrier()

    def close(self) -> None:
        """Leave in good order, so that the end of this process is not taken for a death."""
        self._closing.set()
        if self._sender is not None:
            self._sender.join(2 * INTERVAL)

    def report_failure(self, error: str) -> None:
        """Report an error of this worker alone: the main worker logs it, and all workers exit."""
        self._last_line = FAILURE + " ".join(error.split())
        self.close()

    def wait_for_diagnosis(self) -> None:
        """After a failed collective: a heartbeat may exit with the name of the failed worker."""
        if self._peers or self._sender is not None:
            self._closing.wait(5 * INTERVAL)

    def _start_thread(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        name = f"heartbeat{target.__name__}"
        thread = threading.Thread(target=target, args=args, daemon=True, name=name)
        thread.start()
        return thread

    def _watch_launchers(self) -> None:
        while not self._closing.wait(INTERVAL):
            if any(has_ended(launcher) for launcher in launchers()):
                return self._stop.request("launcher exit")

    def _accept(self, server: socket.socket, token: str) -> None:
        while not self._closing.is_set():
            connection, _ = server.accept()
            self._start_thread(self._receive_heartbeats, connection, token)

    def _receive_heartbeats(self, connection: socket.socket, token: str) -> None:
        """On the main worker: read the heartbeats of one other worker."""
        peer: Peer | None = None
        connection.settimeout(None)
        with suppress(OSError, ValueError, StopIteration), connection.makefile("r") as lines:
            if next(lines).strip() != token:
                return
            rank, host = json.loads(next(lines))
            peer = self._peers[rank] = Peer(rank, host, time.monotonic())
            for line in lines:
                peer.last_heard = time.monotonic()
                if line.strip() == FAREWELL:  # not answered: the worker may be gone
                    del self._peers[rank]
                    return
                if line.startswith(FAILURE):
                    error = line.strip().removeprefix(FAILURE)
                    return self._abort(f"{self._describe(peer, 'failed')}: {error}", None)
                connection.sendall(b".\n")
                step, _, reason = line.strip().partition(" ")
                peer.step = int(step)
                if reason:
                    self._stop.request(f"{reason} on rank {rank}")
        if peer is not None and not self._closing.is_set():
            self._abort(self._describe(peer, "died"), WORKER_DIED)

    def _check_deadlines(self) -> None:
        """On the main worker: find workers that stopped sending heartbeats."""
        checked = time.monotonic()
        while not self._closing.wait(INTERVAL):
            paused, checked = time.monotonic() - checked - INTERVAL, time.monotonic()
            for peer in list(self._peers.values()):
                # If this process itself stood still, perhaps all did: Ctrl-Z, a suspended job.
                peer.last_heard += paused if paused > INTERVAL else 0.0
                if time.monotonic() - peer.last_heard > self._deadline:
                    self._abort(self._describe(peer, self._silent), WORKER_LOST)

    def _describe(self, peer: Peer, event: str) -> str:
        # All workers run in step, and a peer's own number may be a second old.
        return f"rank {peer.rank} on {peer.host} {event} at step {max(peer.step, self.step)}"

    def _send_heartbeats(self, hosts: list[str], port: int, token: str) -> None:
        """On the other workers: send heartbeats, and watch the main worker by its answers."""
        rank = self._world.rank
        try:
            connection = connect(hosts, port)
        except OSError as error:
            why = f"no heartbeats, rank 0 is unreachable ({error})"
            return print(f"distsent: rank {rank}: {why}", file=sys.stderr, flush=True)
        answered = time.monotonic()
        hello = json.dumps([rank, socket.gethostname()])
        connection.sendall(f"{token}\n{hello}\n".encode())
        connection.settimeout(INTERVAL)
        checked, closing = time.monotonic(), False
        while not closing:
            closing = self._closing.wait(INTERVAL)
            elapsed, checked = time.monotonic() - checked, time.monotonic()
            answered += max(0.0, elapsed - 3 * INTERVAL)  # this process stood still
            try:
                line = f"{self.step} {self._stop.requested or ''}".strip()
                connection.sendall(f"{self._last_line if closing else line}\n".encode())
                answer = connection.recv(4096)
                # Closing the connection with an unread answer would drop the farewell.
                while closing and answer:
                    answer = connection.recv(4096)
                alive, answered = bool(answer), time.monotonic()
            except TimeoutError:
                alive = True
            except OSError:
                alive = False
            if not alive and not closing:
                self._abort(f"rank 0 died around step {self.step}", WORKER_DIED)
            if time.monotonic() - answered > self._deadline and not closing:
                self._abort(f"rank 0 {self._silent} around step {self.step}", WORKER_LOST)

    def _abort(self, message: str, cause: Cause | None) -> None:
        """Report, and exit at once: the main thread may wait in a collective that never returns."""
        with self._lock:
            if self._closing.is_set():
                return
            message += "; the last checkpoint is intact: run the same command again to resume"
            with suppress(OSError):  # the terminal may be gone
                sys.stderr.write(f"distsent: rank {self._world.rank}: {message}\n")
            if self._world.is_main:
                self._on_failure(message, cause)
            os._exit(FAILED)


def host_addresses() -> list[str]:
    """Addresses at which other hosts may reach this one: its name's and its default route's."""
    found: list[str] = []
    with suppress(OSError):
        found += socket.gethostbyname_ex(socket.gethostname())[2]
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: the kernel only selects the address
        found.append(probe.getsockname()[0])
    return [*dict.fromkeys(found), "127.0.0.1"]


def connect(hosts: list[str], port: int) -> socket.socket:
    """Connect to the first of `hosts` that answers. Raises OSError if none does within 20 s."""
    deadline = time.monotonic() + 20.0
    while True:
        for host in hosts:
            try:
                return socket.create_connection((host, port), timeout=3.0)
            except OSError:
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.2)
