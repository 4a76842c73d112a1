"""Cost of many workers for rank 0: simulated ones meet, send heartbeats, and leave.

Rank 0's side is the real one, in a process of its own whose CPU time is measured. The others are
sockets and threads of this process: they say what real workers say.
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

import psutil

from benchmarks.comparison import about
from distsent.distributed.network import machine
from distsent.distributed.progress import Position, Progress
from distsent.runtime.heartbeat import protocol
from distsent.runtime.heartbeat.actions import Actions
from distsent.runtime.heartbeat.addresses import Address, listen, reachable
from distsent.runtime.heartbeat.client import connect
from distsent.runtime.heartbeat.main_watch import Limits, MainWatch
from distsent.runtime.heartbeat.protocol import INTERVAL, Beat, Hello, line
from distsent.runtime.heartbeat.server import Server, raise_file_limit
from distsent.runtime.heartbeat.vitals import Vitals

SECONDS = 20.0  # of heartbeats
SIZES = 512, 1001


@dataclass(frozen=True)
class Cost:
    """What a world of `size` cost rank 0."""

    size: int
    meet: float  # seconds until all know each other over torch's store
    told: int  # bytes that all together receive for that
    join: float  # seconds until all heartbeats are connected
    share: float  # of a core, while they are kept
    sent: float  # bytes per second and worker, both ways
    leave: float  # seconds until all have left


def serve(size: int, token: str, pipe: int) -> None:
    """Rank 0: write its address and how many have joined, until it is killed."""
    stop: Any = SimpleNamespace(requested=None, request=print)
    listeners = listen("", one_machine=True)
    server, progress = Server(listeners, token, size), Progress()
    os.write(pipe, json.dumps(reachable(listeners)[0]).encode() + b"\n")
    silent = Actions(print, print, print, str, lambda: None)  # type: ignore[arg-type]
    watch = MainWatch(server, Vitals(0, progress, stop), stop, Limits(60.0, False, ""), silent)
    server.start(watch)
    while True:
        time.sleep(0.05)
        os.write(pipe, f"{len(watch._peers)}\n".encode())


@contextmanager
def main_worker(size: int, token: str) -> Iterator[tuple[psutil.Process, Any]]:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            serve(size, token, writing)
        finally:
            os._exit(1)
    try:
        with open(reading) as lines:
            yield psutil.Process(child), lines
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(writing)


def meet(size: int) -> tuple[float, int]:
    """(seconds, bytes that all receive) of a rendezvous over torch's store, without starts.

    One process says what all other workers say, one after another.
    """
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # a warning for each wait of a second
    from torch.distributed import TCPStore

    from distsent.distributed import rendezvous

    store = TCPStore("127.0.0.1", 0, None, True, wait_for_workers=False)
    members = [rendezvous.this_member(rank, 0) for rank in range(size)]
    began, others = time.perf_counter(), os.fork()
    if others == 0:
        try:
            own = TCPStore("127.0.0.1", store.port, None, False)
            own.wait([rendezvous.MEETING])
            meeting = own.get(rendezvous.MEETING).decode()
            for member in members[1:]:
                own.set(f"{meeting}/{member.rank}", json.dumps(asdict(member)))
            for _ in members[1:]:
                own.get(f"{meeting}/result")
        finally:
            os._exit(0)
    rendezvous.meet(store, members[0], size, 600.0)
    os.waitpid(others, 0)
    return time.perf_counter() - began, size * len(json.dumps([asdict(each) for each in members]))


def join(address: Address, token: str, rank: int) -> socket.socket:
    worker = connect(address, token)
    hello = Hello(rank, f"node-{rank // 8}", machine(), 1, 1.0)
    worker.sendall(line(protocol.HELLO, hello.to_json()))
    worker.setblocking(False)
    return worker


def keep(workers: list[socket.socket], seconds: float) -> int:
    """Send heartbeats, spread over each second. Returns the bytes both ways."""
    bytes_moved, began, step = 0, time.monotonic(), 0
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker, selectors.EVENT_READ)
        while time.monotonic() - began < seconds:
            step += 1
            text = Beat(Position("step", step, 4 * step, "gradient.0", 8 * step)).to_json()
            for i, worker in enumerate(workers):
                bytes_moved += worker.send(line(protocol.BEAT, text))
                due = began + INTERVAL * (step - 1 + i / len(workers))
                while (rest := due - time.monotonic()) > 0:
                    for key, _ in selector.select(rest):
                        bytes_moved += len(key.fileobj.recv(4096))  # type: ignore[union-attr]
    return bytes_moved


def wait_for(lines: Any, count: int) -> None:
    while int(lines.readline()) != count:
        pass


def measure(size: int, seconds: float = SECONDS) -> Cost:
    raise_file_limit(size + 1024)
    token = secrets.token_hex(16)
    with main_worker(size, token) as (process, lines):
        address = tuple(json.loads(lines.readline()))
        began = time.perf_counter()
        with ThreadPoolExecutor(16) as pool:
            workers = [*pool.map(lambda rank: join(address, token, rank), range(1, size))]
        wait_for(lines, size - 1)
        joined, before = time.perf_counter() - began, sum(process.cpu_times()[:2])
        drain = threading.Thread(target=wait_for, args=(lines, 0), daemon=True)
        drain.start()  # the pipe must not fill up
        moved = keep(workers, seconds)
        used, began = sum(process.cpu_times()[:2]) - before, time.perf_counter()
        for worker in workers:
            worker.setblocking(True)
            worker.sendall(line(protocol.FAREWELL))
        drain.join()
        left = time.perf_counter() - began
        for worker in workers:
            worker.close()
    per_worker = moved / seconds / (size - 1)
    return Cost(size, *meet(size), joined, used / seconds, per_worker, left)


def report() -> str:
    """The table, as Markdown."""
    rows = [measure(size) for size in SIZES]
    head = "| workers | meet | join | core of rank 0 | per worker and second | leave |"
    body = []
    for cost in rows:
        met = f"{cost.meet:.2f} s, {cost.told / 2**20:.0f} MB in all"
        kept = f"{cost.share:.1%} | {cost.sent:.0f} bytes | {cost.leave:.2f} s"
        body.append(f"| {cost.size:,} | {met} | {cost.join:.2f} s | {kept} |")
    what = "Simulated workers and the real rank 0. They meet over the store of torch's transport; "
    what += f"heartbeats connect, are kept for {SECONDS:.0f} s, and leave.\n"
    lines = ["# Heartbeats of many workers\n", f"{about()}\n", what, head, "|---" * 6 + "|"]
    return "\n".join([*lines, *body]) + "\n"


if __name__ == "__main__":
    print(report())
