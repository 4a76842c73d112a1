"""Rank 0's end of all heartbeat connections, in one thread.

Everybody on the network may connect. Until a connection has proved that it belongs to this run it
costs a hundred bytes, and lives five seconds at most. When all workers have joined, nobody can
connect any more.
"""

from __future__ import annotations

import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from distsent.runtime.heartbeat.protocol import (
    FAREWELL,
    HANDSHAKE_BYTES,
    HANDSHAKE_SECONDS,
    HELLO,
    INTERVAL,
    LINE_BYTES,
    Hello,
    LineBuffer,
    admit,
    line,
)

STRANGERS = 64  # connections without a proof, beside one for each worker
UNSENT = 65536  # bytes that a peer has not read
OTHER_FILES = 1024  # file descriptors for everything else in this process


class Connection:
    """A connection to rank 0. `hello` is None until it has proved itself and said who it is."""

    def __init__(self, connection: socket.socket, token: str) -> None:
        connection.setblocking(False)
        self.socket, self.since = connection, time.monotonic()
        self.hello: Hello | None = None
        self._proof = admit(token)
        next(self._proof)
        self._believed = False
        self.waits = False  # for the other side to read what was sent
        self._incoming, self._outgoing = LineBuffer(HANDSHAKE_BYTES), b""

    def receive(self) -> list[str] | None:
        """The lines that have come since the last call; None if this is over.

        The lines of the proof are not among them. Raises ValueError for a broken protocol.
        """
        try:
            data = self.socket.recv(LINE_BYTES if self._believed else HANDSHAKE_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            return None
        lines = self._incoming.feed(data)
        while lines and not self._believed:
            try:
                self.send(self._proof.send(lines.pop(0)).encode())
            except StopIteration as end:
                if not end.value:
                    return None
                self._believed, self._incoming.limit = True, LINE_BYTES
        if lines and self.hello is None:
            word, _, text = lines.pop(0).partition(" ")
            if word != HELLO:
                return None
            self.hello = Hello.from_json(text)
        return lines if data else None

    def send(self, data: bytes = b"") -> bool:
        """Send, as far as the other side reads. Whether something is left to send."""
        if len(self._outgoing) < UNSENT:
            self._outgoing += data
        with suppress(OSError):  # also BlockingIOError; `receive` notices the end
            while self._outgoing:
                self._outgoing = self._outgoing[self.socket.send(self._outgoing) :]
        return bool(self._outgoing)

    @property
    def closed(self) -> bool:
        return self.socket.fileno() < 0

    def close(self) -> None:
        self.socket.close()


class Watch(Protocol):
    """What decides about heartbeats. All methods are called in the server's thread."""

    def joined(self, hello: Hello) -> None: ...
    def heard(self, rank: int, word: str, text: str) -> None: ...
    def closed(self, rank: int) -> None: ...
    def tick(self, late: float) -> None: ...  # seconds that this process stood still


class Server:
    """Accepts, authenticates and serves connections until it is closed."""

    def __init__(self, listeners: Sequence[socket.socket], token: str, size: int) -> None:
        self._listeners, self._token, self._size = [*listeners], token, size
        self._selector = selectors.DefaultSelector()
        self._strangers: dict[socket.socket, Connection] = {}  # the oldest first
        self._peers: dict[int, Connection] = {}
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._accepted, self._listening = 0, False
        self._closing, self._last = threading.Event(), FAREWELL
        self._woken, self._wake = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, self._closing.set)
        raise_file_limit(size + OTHER_FILES)

    def start(self, watch: Watch) -> None:
        self._watch = watch
        for listener in self._listeners:
            listener.setblocking(False)
        self._listen(True)
        thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        thread.start()
        self._thread = thread

    def close(self, last: str = FAREWELL) -> None:
        """Say the `last` word to all peers and end the thread."""
        self._last = last
        self._closing.set()
        with suppress(OSError):
            self._wake.send(b".")
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * INTERVAL)

    def _run(self) -> None:
        next_tick = time.monotonic() + INTERVAL
        while not self._closing.is_set():
            for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
                key.data()
            now = time.monotonic()
            if now >= next_tick and not self._closing.is_set():
                late = now - next_tick
                self._limit_strangers(now)
                self._watch.tick(late if late > INTERVAL else 0.0)
                next_tick = now + INTERVAL
        self.send(self._last)
        self.flush(INTERVAL / 2)
        for connection in (*self._strangers.values(), *self._peers.values()):
            connection.close()
        for listener in self._listeners:
            listener.close()
        for end in (self._selector, self._woken, self._wake):
            end.close()
        self.release_spare()

    def send(self, word: str, value: object = "", ranks: Sequence[int] | None = None) -> None:
        """Send a line to some peers, or to all."""
        for rank in [*self._peers] if ranks is None else ranks:
            if rank in self._peers:
                self._send(self._peers[rank], line(word, value))

    def flush(self, seconds: float) -> None:
        """Wait for the peers to read what was sent."""
        until = time.monotonic() + seconds
        while any(peer.send() for peer in self._peers.values()) and time.monotonic() < until:
            time.sleep(0.02)

    def release_spare(self) -> None:
        """Free a file descriptor, so that a report can be written when there are no others."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None

    # The listeners

    def _listen(self, on: bool) -> None:
        if on == self._listening:
            return
        self._listening = on
        for listener in self._listeners:
            if on:
                accept = self._accepter(listener)
                self._selector.register(listener, selectors.EVENT_READ, accept)
            else:
                self._selector.unregister(listener)

    def _accepter(self, listener: socket.socket) -> Callable[[], None]:
        return lambda: self._accept(listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        except OSError:  # no file descriptors or no memory: until the next tick
            self._drop_oldest()
            return self._listen(False)
        connection = Connection(accepted, self._token)
        self._strangers[accepted] = connection
        self._selector.register(accepted, selectors.EVENT_READ, lambda: self._read(connection))
        if len(self._strangers) > STRANGERS + self._size:
            self._drop_oldest()
        self._accepted += 1
        if self._accepted >= 4 * (
            STRANGERS + self._size
        ):  # a flood must not take the training's time
            self._listen(False)

    def _drop_oldest(self) -> None:
        for connection in [*self._strangers.values()][:1]:
            self._forget(connection)

    def _limit_strangers(self, now: float) -> None:
        """At every tick: end the slow ones, accept again. When all have joined: no more."""
        for connection in [*self._strangers.values()]:
            if now - connection.since > HANDSHAKE_SECONDS:
                self._forget(connection)
        self._accepted = 0
        if self._listeners:
            self._listen(True)

    def _all_joined(self) -> None:
        self._listen(False)
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        for connection in [*self._strangers.values()]:
            self._forget(connection)

    # Connections

    def _read(self, connection: Connection) -> None:
        if connection.closed:
            return  # after its event came
        try:
            known = connection.hello
            lines = connection.receive()
            if known is None and connection.hello is not None and not self._join(connection):
                lines = None
        except (ValueError, TypeError):  # not our protocol
            lines = None
        hello = connection.hello
        if hello is not None and self._peers.get(hello.rank) is connection:
            for text in lines or ():
                self._watch.heard(hello.rank, *text.partition(" ")[::2])
        if lines is None:
            self._forget(connection)
        else:
            self._send(connection, b"")

    def _join(self, connection: Connection) -> bool:
        """Whether the worker is one that was missing."""
        hello = connection.hello
        if hello is None or not 0 < hello.rank < self._size or hello.rank in self._peers:
            return False
        del self._strangers[connection.socket]
        self._peers[hello.rank] = connection
        self._watch.joined(hello)
        if len(self._peers) == self._size - 1:
            self._all_joined()
        return True

    def _send(self, connection: Connection, data: bytes) -> None:
        """Send; what the other side does not read now is sent when it does."""
        waits = connection.send(data)
        if waits != connection.waits and not connection.closed:
            connection.waits = waits
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waits else 0)
            key = self._selector.get_key(connection.socket)
            self._selector.modify(connection.socket, events, key.data)

    def _forget(self, connection: Connection) -> None:
        self._selector.unregister(connection.socket)
        connection.close()
        self._strangers.pop(connection.socket, None)
        hello = connection.hello
        if hello is not None and self._peers.get(hello.rank) is connection:
            del self._peers[hello.rank]
            self._watch.closed(hello.rank)


def raise_file_limit(wanted: int) -> None:
    """Raise this process's soft limit of file descriptors, as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    infinite = resource.RLIM_INFINITY
    if soft != infinite and soft < wanted:
        limit = wanted if hard == infinite else min(wanted, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
