"""A worker's end of its heartbeat connection, in one thread."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from distsent.runtime.heartbeat import protocol
from distsent.runtime.heartbeat.addresses import Address
from distsent.runtime.heartbeat.protocol import INTERVAL, LineBuffer, line
from distsent.runtime.heartbeat.vitals import Vitals

PATIENCE = 60.0  # seconds to find rank 0
FOLLOW = 5.0  # seconds to leave after rank 0, before it is taken for a difference of opinion
FAILS = 2.0  # seconds for rank 0 to print its own error, and to exit first with its own code
ADDRESS_SECONDS = 2.0  # for one address to accept


class Watch(Protocol):
    """What decides about rank 0. All methods are called in the client's thread."""

    def unreachable(self, why: str) -> None: ...
    def told(self, word: str, text: str) -> None: ...
    def died(self) -> None: ...
    def left(self) -> None: ...  # in good order, but this worker did not
    def failed(self) -> None: ...  # alone, and this worker still waits for it
    def silent(self) -> None: ...


class Client:
    """Sends heartbeats and reads what rank 0 says until one of them leaves."""

    def __init__(
        self, addresses: Sequence[Address], token: str, deadline: float, vitals: Vitals
    ) -> None:
        self._addresses, self._token, self._deadline = addresses, token, deadline
        self._vitals = vitals
        self._connection: socket.socket | None = None
        self._closing, self._joined = threading.Event(), False
        self._end = ""  # the word with which rank 0 has left
        self._last_line = line(protocol.FAREWELL)
        self._woken, self._wake = socket.socketpair()
        self._lines = LineBuffer(protocol.LINE_BYTES)
        self._sending = threading.Lock()

    def start(self, watch: Watch) -> None:
        self._watch = watch
        self._thread = threading.Thread(target=self._run, daemon=True, name="heartbeat")
        self._thread.start()

    def close(self, error: str | None = None) -> None:
        """Leave, in good order or with the error of this worker alone."""
        if error is not None:
            self._last_line = line(protocol.FAILED, error[: protocol.LONGEST_TEXT])
        self._closing.set()
        with suppress(OSError):
            self._wake.send(b".")
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * INTERVAL)

    def send(self, word: str, value: object = "") -> None:
        """Say something to rank 0, from any thread."""
        with self._sending, suppress(OSError):
            if self._connection is not None:
                self._connection.sendall(line(word, value))

    def _run(self) -> None:
        try:
            self._connection = self._find_main_worker()
            if self._connection is not None:
                self._connection.settimeout(INTERVAL)
                self.send(protocol.HELLO, self._vitals.hello().to_json())
                self._serve(self._connection)
        finally:
            for end in (self._connection, self._woken, self._wake):
                if end is not None:
                    end.close()

    def _find_main_worker(self) -> socket.socket | None:
        """The first address at which rank 0 answers; it proves that it is rank 0."""
        until, why = time.monotonic() + PATIENCE, "no address"
        while not self._closing.is_set():
            for address in self._addresses:
                try:
                    return connect(address, self._token)
                except (OSError, ValueError) as error:
                    why = f"{address[0]} port {address[1]}: {error}"
            if time.monotonic() > until:
                self._watch.unreachable(why)
                return None
            self._closing.wait(INTERVAL / 2)
        return None

    def _serve(self, connection: socket.socket) -> None:
        answered = checked = time.monotonic()
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not (self._closing.is_set() or self._end):
                self.send(protocol.BEAT, self._vitals.beat().to_json())
                until = time.monotonic() + INTERVAL
                while (rest := until - time.monotonic()) > 0:
                    if self._closing.is_set() or self._end:
                        break
                    if selector.select(rest) and not self._closing.is_set():
                        if not self._read(connection):
                            return
                        answered = time.monotonic()
                late = time.monotonic() - checked - INTERVAL
                answered += late if late > INTERVAL else 0.0  # this process stood still
                checked = time.monotonic()
                if checked - answered > self._deadline:
                    self._watch.silent()
                    answered = checked
        self._leave(connection)
        failed = self._end == protocol.FAILED
        if not self._closing.wait(FAILS if failed else FOLLOW):
            (self._watch.failed if failed else self._watch.left)()

    def _read(self, connection: socket.socket) -> bool:
        """Read what rank 0 says. False at the end of the connection."""
        try:
            data = connection.recv(protocol.LINE_BYTES)
        except OSError:
            data = b""
        for text in self._lines.feed(data):
            self._joined = True
            word, _, rest = text.partition(" ")
            if word in (protocol.FAREWELL, protocol.FAILED):
                self._end = word
            elif word != protocol.ALIVE:
                self._watch.told(word, rest)
        # Rank 0 says farewell to those who have joined. With an error in the first moment of a run
        # it may leave sooner; this worker receives the same error and follows.
        follows = data or self._end or (not self._joined and self._closing.wait(FOLLOW))
        if not follows:
            self._watch.died()
        return bool(data)

    def _leave(self, connection: socket.socket) -> None:
        """Say why. Closing a connection with an unread answer would drop the farewell."""
        with suppress(OSError):
            connection.sendall(self._last_line)
            connection.shutdown(socket.SHUT_WR)
            until = time.monotonic() + INTERVAL
            while connection.recv(protocol.LINE_BYTES) and time.monotonic() < until:
                pass


def connect(address: Address, token: str) -> socket.socket:
    """A connection whose other end has proved to be rank 0 of this run.

    Raises OSError or ValueError if there is none at this address.
    """
    connection = socket.create_connection(address, ADDRESS_SECONDS)
    try:
        until, lines = time.monotonic() + protocol.HANDSHAKE_SECONDS, list[str]()
        buffer, own = LineBuffer(protocol.HANDSHAKE_BYTES), protocol.nonce()
        connection.sendall(f"{own}\n".encode())
        while len(lines) < 2:
            if time.monotonic() > until or not (data := connection.recv(protocol.LINE_BYTES)):
                raise ValueError("does not answer as rank 0")
            lines += buffer.feed(data)
        theirs, sent = lines
        if not protocol.equal(sent, protocol.proof(token, "rank 0", own, theirs)):
            raise ValueError("another program listens there")
        connection.sendall(f"{protocol.proof(token, 'worker', own, theirs)}\n".encode())
        return connection
    except BaseException:
        connection.close()
        raise
