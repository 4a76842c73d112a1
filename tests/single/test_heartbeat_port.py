"""Rank 0's port, as strangers and broken networks find it: a real listener, real sockets."""

from __future__ import annotations

import errno
import gc
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from threading import Thread
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from distsent.errors import UserError
from distsent.runtime.heartbeat import addresses, client, protocol, server
from distsent.runtime.heartbeat.client import connect
from distsent.runtime.heartbeat.ending import report_and_exit
from distsent.runtime.heartbeat.protocol import Beat, Hello, LineBuffer, line
from distsent.runtime.heartbeat.server import Server
from tests.launcher import wait_for

TOKEN = secrets.token_hex(16)
SIZE = 3


class Seen:
    """What the server tells its watch."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def joined(self, hello: Hello) -> None:
        self.events.append(("joined", hello.rank))

    def heard(self, rank: int, word: str, text: str) -> None:
        self.events.append((rank, word, text))

    def closed(self, rank: int) -> None:
        self.events.append(("closed", rank))

    def tick(self, late: float) -> None:
        pass


class Port:
    """A server for 2 workers on loopback."""

    def __init__(self, size: int = SIZE) -> None:
        listeners = addresses.listen("", one_machine=True)
        self.address = addresses.reachable(listeners)[0]
        self.seen, self.server = Seen(), Server(listeners, TOKEN, size)
        self.server.start(self.seen)

    def stranger(self, *sent: bytes) -> socket.socket:
        stranger = socket.create_connection(self.address, 5.0)
        stranger.settimeout(5.0)
        for data in sent:
            stranger.sendall(data)
        return stranger

    def worker(self, rank: int) -> socket.socket:
        """A worker that has joined."""
        worker = connect(self.address, TOKEN)
        worker.sendall(line(protocol.HELLO, hello(rank).to_json()))
        wait_for(lambda: ("joined", rank) in self.seen.events, 10)
        return worker


def hello(rank: int) -> Hello:
    return Hello(rank, "somewhere", "machine", 4711, 1.0)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    monkeypatch.setattr(server, "INTERVAL", 0.1)
    opened = Port()
    yield opened
    opened.server.close()


def is_closed(stranger: socket.socket) -> bool:
    """Whether the other side has closed the connection, within 5 s."""
    with suppress(ConnectionError):
        while stranger.recv(4096):  # what was sent before
            pass
    return True


def test_workers_join_speak_and_leave(port: Port) -> None:
    first, second = port.worker(1), port.worker(2)
    first.sendall(line(protocol.BEAT, Beat(protocol.Position(step=7)).to_json()))
    wait_for(lambda: len(port.seen.events) == 3, 10)
    rank, word, text = port.seen.events[2]
    assert (rank, word) == (1, protocol.BEAT) and Beat.from_json(text).position.step == 7
    port.server.send(protocol.STACKS, ranks=[2])
    assert second.recv(100) == b"stacks\n"
    second.close()
    wait_for(lambda: ("closed", 2) in port.seen.events, 10)


def test_nobody_else_can_connect_when_all_have_joined(port: Port) -> None:
    half_open = port.stranger()
    workers = port.worker(1), port.worker(2)
    assert is_closed(half_open)
    with pytest.raises(ConnectionRefusedError):
        port.stranger()
    for worker in workers:
        worker.close()


def recorded(port: Port) -> tuple[bytes, bytes]:
    """What a worker said in its proof."""
    own = protocol.nonce()
    true = port.stranger(f"{own}\n".encode())
    text = b""
    while text.count(b"\n") < 2:
        text += true.recv(200)
    theirs = text.decode().splitlines()[0]
    proof = protocol.proof(TOKEN, "worker", own, theirs)
    true.close()
    return f"{own}\n".encode(), f"{proof}\n".encode()


@pytest.mark.parametrize(
    "attack",
    [
        "unproved hello", "replay", "reflection", "wrong token", "random", "long line", "no line",
        "another rank", "a taken rank", "not json",
    ],
)  # fmt: skip
def test_a_stranger_is_not_believed(
    port: Port, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = attack in ("random", "no line")  # these are over when their time is
    monkeypatch.setattr(server, "HANDSHAKE_SECONDS", 1.0 if slow else 60.0)
    said = line(protocol.HELLO, hello(2).to_json())
    true = port.worker(1)
    if attack == "unproved hello":
        short = b'hello {"rank":2,"host":"","machine":"","process":1,"started":1}\n'
        stranger = port.stranger(short)  # fits into a line of the proof
    elif attack == "replay":
        stranger = port.stranger(*recorded(port), said)
    elif attack == "reflection":  # rank 0's own proof sent back
        stranger = port.stranger(f"{protocol.nonce()}\n".encode())
        answer = b""
        while answer.count(b"\n") < 2:
            answer += stranger.recv(200)
        stranger.sendall(answer.split(b"\n")[1] + b"\n" + said)
    elif attack == "wrong token":
        with pytest.raises(ValueError, match="another program"):
            connect(port.address, secrets.token_hex(16))
        stranger = port.stranger(f"{protocol.nonce()}\n{'0' * 64}\n".encode(), said)
    elif attack == "random":
        stranger = port.stranger(secrets.token_bytes(64))
    elif attack == "long line":
        stranger = port.stranger(b"a" * 65)
    elif attack == "no line":
        stranger = port.stranger()
    else:  # somebody who knows the token, but is wrong
        stranger = connect(port.address, TOKEN)
        stranger.settimeout(5.0)
        text = {
            "another rank": hello(SIZE).to_json(),
            "a taken rank": hello(1).to_json(),
            "not json": "{",
        }[attack]
        stranger.sendall(line(protocol.HELLO, text))
    assert is_closed(stranger)
    true.sendall(b"beat 1\n")
    wait_for(lambda: (1, "beat", "1") in port.seen.events, 10)
    assert {event[1] for event in port.seen.events if event[0] == "joined"} == {1}
    port.worker(2).close()


def test_a_program_that_is_not_rank_0_is_not_believed() -> None:
    """It repeats what it hears, or says a nonce and a proof of its own."""
    said = [lambda nonce: nonce + b"\n" + nonce * 2, lambda nonce: b"0" * 32 + b"\n" + b"1" * 64]
    for answer in said:
        with socket.create_server(("127.0.0.1", 0)) as fake:

            def serve(fake: socket.socket = fake, answer: Any = answer) -> None:
                other, _ = fake.accept()
                other.sendall(answer(other.recv(100).strip()) + b"\n")
                assert not other.recv(100), "the worker must not send its proof"

            thread = Thread(target=serve)
            thread.start()
            with pytest.raises(ValueError, match="another program"):
                connect(fake.getsockname(), TOKEN)
            thread.join()


@pytest.mark.parametrize("follows", [True, False])
def test_rank_0_may_leave_before_a_worker_has_joined(
    follows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FOLLOW", 60.0 if follows else 0.1)
    deaths: list[str] = []
    watch = SimpleNamespace(died=lambda: deaths.append("died"))
    vitals = SimpleNamespace(hello=lambda: hello(1), beat=lambda: Beat(protocol.Position()))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker: Any = client.Client([listener.getsockname()], TOKEN, 60.0, vitals)
        worker.start(watch)
        joining = server.Connection(listener.accept()[0], TOKEN)
        wait_for(lambda: joining.receive() is None or joining.hello is not None, 10)
        joining.close()
    if follows:
        time.sleep(0.3)
        worker.close()
        assert not deaths
    else:
        wait_for(lambda: deaths, 10)
        worker.close()


def test_floods_cost_neither_memory_nor_workers(port: Port) -> None:
    gc.collect()
    process, worker = psutil.Process(), port.worker(1)
    before = process.memory_info().rss
    with ExitStack() as stack:
        for i in range(200):
            sent = (b"", b"a" * 64, secrets.token_bytes(40), b"x\n" * 9)[i % 4]
            stranger = stack.enter_context(port.stranger())
            with suppress(OSError):
                stranger.sendall(sent)
        endless = stack.enter_context(port.stranger())
        with suppress(OSError):
            for _ in range(300):
                endless.sendall(b"a" * 1_000_000)
        assert len(port.server._strangers) <= server.STRANGERS + SIZE
        worker.sendall(b"beat 5\n")
        wait_for(lambda: (1, "beat", "5") in port.seen.events, 10)
        port.worker(2).close()
    assert process.memory_info().rss - before < 20e6
    assert ("closed", 1) not in port.seen.events


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPERM])
def test_an_error_of_accept_does_not_end_the_listener(
    port: Port, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, left = socket.socket.accept, [3]

    def accept(self: socket.socket) -> Any:
        if left[0]:
            left[0] -= 1
            raise OSError(number, os.strerror(number))
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    port.worker(1).close()
    assert not left[0]


LIMITED = """
import resource, threading
resource.setrlimit(resource.RLIMIT_NOFILE, (64, HARD))
from tests.single.test_heartbeat_port import Port
port = Port(size=91)
workers = []
def join():
    for rank in range(1, 91):
        workers.append(port.worker(rank))
threading.Thread(target=join, daemon=True).start()
import time
until = time.monotonic() + 20
while len(workers) < WANTED and time.monotonic() < until:
    time.sleep(0.05)
print(len(workers), port.server._thread.is_alive(), flush=True)
port.server.release_spare()
open("/dev/null").close()
import os; os._exit(0)
"""


def test_few_file_descriptors() -> None:
    """90 workers with a soft limit of 64; it is raised. A hard one leaves enough for a report."""
    for hard, wanted in ((4096, 90), (64, 20)):
        code = LIMITED.replace("HARD", str(hard)).replace("WANTED", str(wanted))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        joined, alive = done.stdout.split()
        assert int(joined) >= wanted and alive == "True" and done.returncode == 0, done.stderr


def entries(**hosts: list[str]) -> Callable[[], Any]:
    family = {True: socket.AF_INET6, False: socket.AF_INET}
    found = {
        name: [SimpleNamespace(family=family[":" in host], address=host) for host in some]
        for name, some in hosts.items()
    }
    return lambda: found


def test_loopback_is_never_an_address_between_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's /etc/hosts gives a host's name 127.0.1.1, where another host finds itself."""
    monkeypatch.setattr(socket, "gethostbyname_ex", lambda name: (name, [], ["127.0.1.1"]))
    both = entries(lo=["127.0.0.1", "::1"], eth0=["10.0.0.5", "fe80::1%eth0", "fd00::5"])
    monkeypatch.setattr(psutil, "net_if_addrs", both)
    listeners = addresses.listen("", one_machine=False)
    port = listeners[0].getsockname()[1]
    assert addresses.reachable(listeners) == [("10.0.0.5", port), ("fd00::5", port)]
    for host in ("127.0.0.1", "::1"):  # it listens on both families
        socket.create_connection((host, port), 5.0).close()
    listeners[0].close()
    alone = addresses.listen("", one_machine=True)
    assert addresses.reachable(alone)[0][0] == "127.0.0.1"
    alone[0].close()


def test_a_host_that_has_ipv6_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "net_if_addrs", entries(lo=["::1"], eth0=["fd00::5"]))
    listeners = addresses.listen("", one_machine=False)
    assert [host for host, _ in addresses.reachable(listeners)] == ["fd00::5"]
    listeners[0].close()


def test_an_unknown_interface_is_an_error_that_names_those_that_are_there() -> None:
    with pytest.raises(UserError, match=r"run.interface = 'eth9'.*it has lo"):
        addresses.listen("eth9", one_machine=False)


def test_neither_a_full_pipe_nor_hanging_storage_holds_up_the_end() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(10)  # a child that blocks must not outlive the test
        os.dup2(writing, 2)
        report_and_exit(0, "why", lambda: time.sleep(60), int)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert time.monotonic() - began < 5.0
    os.close(reading)
    os.close(writing)


def test_lines_have_a_limit() -> None:
    buffer = LineBuffer(4)
    assert buffer.feed(b"ab") == [] and buffer.feed(b"cd\nx\ny") == ["abcd", "x"]
    for bad in (b"12345", b"12345\n"):
        with pytest.raises(ValueError, match="more than 4 bytes"):
            LineBuffer(4).feed(bad)


def test_the_soft_limit_is_raised_as_far_as_the_hard_one_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    server.raise_file_limit(10)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before, "never lowered"
