"""What workers and rank 0 say to each other: lines of text, believed only after mutual proof.

A worker sends a nonce. Rank 0 answers with a nonce and a proof that it knows the token of this run,
then the worker sends its proof. Nonces are fresh, so a recorded conversation proves nothing. After
that the worker sends `hello`, and a `beat` every second, which rank 0 answers with ALIVE. The lines
are not encrypted: who can change packets between the hosts can change a collective, too.
"""

from __future__ import annotations

import hmac
import json
import re
import secrets
from collections.abc import Generator
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

from distsent.distributed.progress import Position

INTERVAL = 1.0  # seconds between heartbeats
HANDSHAKE_SECONDS = 5.0  # for all of the proof
HANDSHAKE_BYTES = 64  # a line of the proof
LINE_BYTES = 8192  # a line after it
LONGEST_TEXT = 2000  # characters of an error or a reason
# Words that begin a line, from both sides
FAREWELL = "bye"  # leaves in good order: not a death
FAILED = "failed"  # leaves with an error of its own; a worker adds it
# from a worker
HELLO, BEAT, LOCATION = "hello", "beat", "at"
# from rank 0
ALIVE = "."
STACKS = "stacks"  # write your stacks, and answer with LOCATION
END = "end"  # exit: rank 0 has reported why
FAIL = "fail"  # elastic: leave the collectives, a worker is gone
KILL = "kill"  # elastic: end this frozen process on your host


@dataclass(frozen=True)
class Hello:
    """Who a worker is. `started`: of its process, because process ids are used again."""

    rank: int
    host: str
    machine: str
    process: int
    started: float

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        return cls(**json.loads(text))


@dataclass(frozen=True)
class Beat:
    """A heartbeat."""

    position: Position
    computing: bool = False  # the main thread has used the CPU since the last one
    held: bool = False  # its launcher is stopped: Ctrl-Z
    stop: str | None = None  # the reason of a stop request

    def to_json(self) -> str:
        stop = self.stop and self.stop[:LONGEST_TEXT]
        return json.dumps([astuple(self.position), self.computing, self.held, stop])

    @classmethod
    def from_json(cls, text: str) -> Self:
        position, *rest = json.loads(text)
        return cls(Position(*position), *rest)


class LineBuffer:
    """Bytes to lines. Raises ValueError for a line longer than `limit`."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._pending = b""

    def feed(self, data: bytes) -> list[str]:
        *lines, self._pending = (self._pending + data).split(b"\n")
        if max(map(len, (*lines, self._pending))) > self.limit:
            raise ValueError(f"a line of more than {self.limit} bytes")
        return [line.decode(errors="backslashreplace") for line in lines]


Proof = Generator[str, str, bool]  # yields what to send, gets a line, returns whether to believe it


def nonce() -> str:
    return secrets.token_hex(16)


def admit(token: str) -> Proof:
    """Rank 0's part of the proof. It says nothing that depends on the token to a bad first line."""
    theirs = yield ""
    if not re.fullmatch("[0-9a-f]{32}", theirs):
        return False
    own = nonce()
    sent = yield f"{own}\n{proof(token, 'rank 0', theirs, own)}\n"
    return equal(sent, proof(token, "worker", theirs, own))


def proof(token: str, role: str, worker_nonce: str, main_nonce: str) -> str:
    text = f"distsent heartbeat, {role}, {worker_nonce}, {main_nonce}"
    return hmac.new(token.encode(), text.encode(), "sha256").hexdigest()


def equal(sent: str, expected: str) -> bool:
    return hmac.compare_digest(sent.encode(errors="replace"), expected.encode())


def line(word: str, value: Any = "") -> bytes:
    return f"{word} {value}".strip().encode(errors="replace") + b"\n"
