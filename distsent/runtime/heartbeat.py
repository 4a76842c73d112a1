"""The pulse of a run: every worker tells the first one, each second, that it lives and which step it is at.

A collective waits for ever for a worker that died or hangs. Here a death shows at once (its connection closes) and a hang after
`stall_seconds` of silence; everybody then learns who it was and leaves, so that nothing is left waiting.
Plain TCP between the workers' hosts; a few bytes a second.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from distsent.distributed.world import World
from distsent.errors import FAILED
from distsent.runtime.launcher_watch import gone, launchers
from distsent.runtime.signals import StopSignal

BEAT = 1.0  # seconds between two signs of life
FAREWELL = "bye"
FAILURE = "failed: "  # begins the last words of a worker that ends alone


@dataclass
class Worker:
    """What the first worker knows of another one."""

    rank: int
    host: str
    step: int = 0
    heard: float = field(default_factory=time.monotonic)
    left: bool = False


class HeartbeatMonitor:
    """Watches over a world while it lives.

    `last_words(line)` is called once on the first worker before everybody leaves. `stop` is asked when the launcher is gone and, on
    the first worker, when any other was asked: in training that travels with the gradients, but there is more to a run.
    """

    def __init__(
        self,
        world: World,
        stall_seconds: float,
        last_words: Callable[[str], None],
        stop: StopSignal,
    ) -> None:
        self.step = 0
        self._world, self._limit, self._last_words, self._stop = (
            world,
            stall_seconds,
            last_words,
            stop,
        )
        self._ending = threading.Event()
        self._failure: str | None = None
        self._workers: dict[int, Worker] = {}
        self._lock = threading.Lock()
        self._beating: threading.Thread | None = None  # of the other workers than the first
        if launchers():
            self._spawn(self._mind_launcher)
        if world.size == 1 or world.elastic:
            return  # elastic workers go on without a dead one: their collectives fail, and they meet again
        token = secrets.token_hex(8)  # strangers who find the port know no token
        server = (
            socket.create_server(("", 0), backlog=world.size, family=socket.AF_INET)
            if world.is_main
            else None
        )
        address = [addresses(), server.getsockname()[1], token] if server else None
        hosts, port, token = world.allgather_object(address, "pulse.address")[0] or ([], 0, "")
        if server is not None:
            self._spawn(self._listen, server, token)
            self._spawn(self._watch)
        else:
            self._beating = self._spawn(self._beat, hosts, port, token)
        world.barrier()

    def close(self) -> None:
        """Leave in good order: nobody takes this for a death, even if the process ends right behind it."""
        self._ending.set()
        if self._beating is not None:
            self._beating.join(2 * BEAT)

    def fail(self, why: str) -> None:
        """Leave alone, for a reason that the others do not have: the first worker names it, and all end."""
        self._failure = " ".join(why.split())
        self.close()

    def await_name(self) -> None:
        """A collective has failed: give the pulse the time to say through whom, which ends this process."""
        if self._workers or self._beating is not None:
            self._ending.wait(5 * BEAT)

    def _spawn(self, target: Callable[..., None], *args: Any) -> threading.Thread:
        thread = threading.Thread(
            target=target, args=args, daemon=True, name=f"pulse-{target.__name__}"
        )
        thread.start()
        return thread

    def _mind_launcher(self) -> None:
        known = launchers()
        while not self._ending.wait(BEAT):
            if gone(known):
                return self._stop.request("the end of its launcher")

    def _listen(self, server: socket.socket, token: str) -> None:
        while not self._ending.is_set():
            connection, _ = server.accept()
            self._spawn(self._hear, connection, token)

    def _hear(self, connection: socket.socket, token: str) -> None:
        """The first worker's ear for one other worker."""
        worker: Worker | None = None
        connection.settimeout(None)
        try:
            with connection.makefile("r") as lines:
                if next(lines, "").strip() != token:
                    return
                hello = json.loads(next(lines))
                worker = Worker(hello["rank"], hello["host"])
                with self._lock:
                    self._workers[worker.rank] = worker
                for line in lines:
                    worker.heard = time.monotonic()
                    if line.strip() == FAREWELL:  # no answer: nobody is there any more to hear it
                        worker.left = True
                        return
                    if line.startswith(FAILURE):
                        self._end(
                            f"rank {worker.rank} on {worker.host} {line.strip()}, at step {self._step_of(worker)}"
                        )
                    connection.sendall(b".\n")
                    step, _, wish = line.strip().partition(" ")
                    worker.step = int(step)
                    if wish:
                        self._stop.request(f"{wish} at rank {worker.rank}")
        except (OSError, ValueError, StopIteration):
            pass
        if worker is not None and not self._ending.is_set():
            self._end(f"rank {worker.rank} on {worker.host} died at step {self._step_of(worker)}")

    def _watch(self) -> None:
        """The first worker's eye on the clock."""
        looked = time.monotonic()
        while not self._ending.wait(BEAT):
            paused, looked = time.monotonic() - looked - BEAT, time.monotonic()
            with self._lock:
                if (
                    paused > BEAT
                ):  # this process itself stood still, so perhaps all did: Ctrl-Z, a suspended job
                    for w in self._workers.values():
                        w.heard += paused
                silent = [
                    w
                    for w in self._workers.values()
                    if not w.left and time.monotonic() - w.heard > self._limit
                ]
            if silent:
                w = silent[0]
                self._end(
                    f"rank {w.rank} on {w.host} has been silent for {self._limit:g} s, at step {self._step_of(w)}"
                )

    def _step_of(self, worker: Worker) -> int:
        """Where a worker is: what it told last is a second old, and all go in step."""
        return max(worker.step, self.step)

    def _beat(self, hosts: list[str], port: int, token: str) -> None:
        """Another worker's sign of life, and its watch over the first one."""
        try:
            line, heard = connect(hosts, port), time.monotonic()
        except OSError as error:
            print(
                f"distsent: rank {self._world.rank}: nobody watches over this worker: rank 0 cannot be reached ({error})",
                file=sys.stderr,
                flush=True,
            )
            return
        line.sendall(
            f"{token}\n{json.dumps({'rank': self._world.rank, 'host': socket.gethostname()})}\n".encode()
        )
        line.settimeout(BEAT)
        looked = time.monotonic()
        while True:
            ended = self._ending.wait(BEAT)
            paused, looked = time.monotonic() - looked - 2 * BEAT, time.monotonic()
            heard += max(0.0, paused - BEAT)  # as in `_watch`
            try:
                wish = self._stop.requested
                last = f"{FAILURE}{self._failure}" if self._failure else FAREWELL
                line.sendall(
                    f"{last if ended else f'{self.step} {wish}' if wish else self.step}\n".encode()
                )
                if ended:  # until the other side hangs up: closing on an unread answer would take the farewell back
                    while line.recv(4096):
                        continue
                    return
                answer = line.recv(4096)
                if not answer:
                    self._end(f"rank 0 died, around step {self.step}")
                heard = time.monotonic()
            except TimeoutError:
                if ended:
                    return
                if time.monotonic() - heard > self._limit:
                    self._end(
                        f"rank 0 has been silent for {self._limit:g} s, around step {self.step}"
                    )
            except OSError:
                if ended:
                    return
                self._end(f"rank 0 died, around step {self.step}")

    def _end(self, what: str) -> None:
        """Tell, and leave at once: the main thread may sit in a collective that never returns."""
        with self._lock:
            if self._ending.is_set():
                return
            line = f"{what}; the last checkpoint is whole: run the same command again to carry on"
            print(f"distsent: rank {self._world.rank}: {line}", file=sys.stderr, flush=True)
            if self._world.is_main:
                self._last_words(f"failed: {line}")
            os._exit(FAILED)


def addresses() -> list[str]:
    """Where this host may be reached from the others: by its name's addresses, and by the one that routes outwards."""
    found: list[str] = []
    with suppress(OSError):
        found += [
            str(info[4][0])
            for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)
        ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(
                ("192.0.2.1", 9)
            )  # sends nothing: it only asks the kernel which address would be used
            found.append(probe.getsockname()[0])
        except OSError:
            pass
    return [*dict.fromkeys(found), "127.0.0.1"]


def connect(hosts: list[str], port: int, patience: float = 20.0) -> socket.socket:
    """A connection to the first of `hosts` that answers. Raises OSError when none does."""
    error: OSError = OSError("no address to connect to")
    until = time.monotonic() + patience
    while time.monotonic() < until:
        for host in hosts:
            try:
                return socket.create_connection((host, port), timeout=3.0)
            except OSError as problem:
                error = problem
        time.sleep(0.2)
    raise error
