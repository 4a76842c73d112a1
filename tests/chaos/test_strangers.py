"""Strangers at the heartbeat's port during a real run: the same bits, and nobody is named."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import psutil
import pytest

from tests import fixtures
from tests.chaos.attacked_run import job
from tests.chaos.fork_server import ForkServer

SECONDS, OPEN = 3.0, 200  # of the attack; connections at once
MEMORY = 50e6  # bytes that it may cost rank 0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("strangers") / "server") as started:
        yield started


def nonce() -> bytes:
    return secrets.token_hex(16).encode() + b"\n"


def heartbeat_port(process: psutil.Process) -> int:
    """The port that answers a nonce with a nonce and a proof."""
    for listener in process.net_connections("tcp"):
        with suppress(OSError), socket.socket() as probe:
            if listener.status == psutil.CONN_LISTEN:
                probe.settimeout(0.5)
                probe.connect(("127.0.0.1", listener.laddr.port))
                probe.sendall(nonce())
                if len(probe.recv(200)) == 98:
                    return int(listener.laddr.port)
    raise AssertionError("rank 0 listens nowhere")


def attack(port: int, recorded: bytes) -> None:
    """Connect again and again, and keep the connections: for SECONDS, and more often than OPEN."""
    held: list[socket.socket] = []
    lies = b'hello {"rank": 1, "host": "x", "machine": "x", "process": 1, "started": 1}\n'
    lies += b"failed out of memory\n"
    began = time.monotonic()
    for number in count():
        seconds = time.monotonic() - began
        if seconds > SECONDS and number > OPEN:
            break
        assert seconds < 60, f"{number} connections in a minute"
        with suppress(OSError):
            stranger = socket.create_connection(("127.0.0.1", port), 1.0)
            held.append(stranger)
            sent = {  # number 0 says nothing
                1: secrets.token_bytes(40),
                2: b"a" * 64,
                3: b"a" * 300_000,
                4: b"\n" * 60,
                5: lies,
                6: recorded,
                7: nonce() + secrets.token_hex(32).encode() + b"\n" + lies,
            }.get(number % 8, b"")
            stranger.setblocking(False)
            stranger.send(sent)
        for old in held[:-OPEN]:
            old.close()
        del held[:-OPEN]
    for stranger in held:
        stranger.close()


def steps(run: Path) -> int:
    return len(fixtures.metrics(run)) if (run / "metrics.jsonl").exists() else 0


def test_strangers_change_nothing(server: ForkServer, tmp_path: Path) -> None:
    ends, grown = dict[str, str](), dict[str, int]()
    for name in ("undisturbed", "attacked"):
        marks = tmp_path / name / "marks"
        marks.mkdir(parents=True)
        words = [w for w in job(tmp_path / name) if not w.startswith("train.max_steps=")]
        words.append("train.max_steps=30")
        # As long as rank 1 has not joined, rank 0 listens. The training goes on meanwhile.
        env = {"PAUSE_AT": "joining:1", "PAUSE_RANK": "1", "PAUSE_FOLDER": str(marks)}
        with server.start(words, 2, "torch", **env, STEP_DELAY="0.2") as started:
            started.until((marks / "joining.1").exists, 300)
            started.until(lambda run=tmp_path / name / "chaos": steps(run) >= 5, 300)  # type: ignore[misc]
            main = psutil.Process(started.workers()[0])
            before = main.memory_info().rss
            if name == "attacked":
                port, recorded = heartbeat_port(main), nonce() + secrets.token_hex(32).encode()
                attack(port, recorded + b"\n")
            else:
                time.sleep(SECONDS)
            grown[name] = main.memory_info().rss - before
            (marks / "go").touch()
            ended = started.wait(300)
        assert ended.code == 0 and "distsent: rank" not in ended.output, ended.output
        ends[name] = fixtures.result(tmp_path / name / "chaos")["weights_sha256"]
    assert ends["attacked"] == ends["undisturbed"]
    assert grown["attacked"] - grown["undisturbed"] < MEMORY, grown
