"""What rank 0 concludes from heartbeats, second by second."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from distsent.distributed.progress import Position
from distsent.runtime.heartbeat import main_watch, protocol
from distsent.runtime.heartbeat.actions import Actions
from distsent.runtime.heartbeat.main_watch import Limits, MainWatch
from distsent.runtime.heartbeat.protocol import Beat, Hello

COMPUTES = Beat(Position("step", 7, 8))
WAITS = Beat(Position("step", 7, 9, "gradient.0"))


class Room:
    """A watch over two workers, whose clock only `pass_seconds` moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, elastic: bool = False) -> None:
        self.now, self.said, self.sent = 100.0, list[str](), list[tuple[Any, ...]]()
        self.own, self.beats = WAITS, {1: COMPUTES, 2: WAITS}
        monkeypatch.setattr(main_watch.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(main_watch, "kill", lambda hello: self.said.append("killed"))
        actions = Actions(
            end=lambda line, cause: self.said.append(f"end: {line}"),
            leave=lambda line: self.said.append(f"leave: {line}"),
            log=self.said.append,
            show_stacks=lambda: "loop.py:1",
            fail_collectives=lambda: self.said.append("failed collectives"),
        )
        vitals: Any = SimpleNamespace(
            hello=lambda: Hello(0, "a", "machine a", 1, 1.0),
            beat=lambda: self.own,
            position=self.own.position,
            entered=[],
        )
        server: Any = SimpleNamespace(send=self.send)
        limits = Limits(10.0, elastic, "runs/x/stacks")
        self.watch = MainWatch(server, vitals, SimpleNamespace(), limits, actions)  # type: ignore[arg-type]
        for rank in (1, 2):
            self.watch.joined(Hello(rank, "b", "machine b", rank, 1.0))

    def send(self, word: str, value: object = "", ranks: Any = None) -> None:
        self.sent.append((word, ranks))
        for rank in (1, 2) if word == protocol.STACKS else ():
            self.watch.heard(rank, protocol.LOCATION, json.dumps([f"step.py:{rank}", []]))

    def pass_seconds(self, seconds: int, *silent: int) -> None:
        for _ in range(seconds):
            self.now += 1.0
            for rank, beat in self.beats.items():
                if rank not in silent:
                    self.watch.heard(rank, protocol.BEAT, beat.to_json())
            self.watch.tick(0.0)


def test_a_stall_is_reported_after_all_have_said_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room(monkeypatch)
    room.pass_seconds(10)
    assert not room.said
    room.pass_seconds(3)
    first = "end: no progress for 10 s: rank 1 on b has not entered the collective 'gradient.0' "
    first += "that the others wait in; it is at step 7 (step), in step.py:1\n"
    assert room.said[0].startswith(first) and "runs/x/stacks" in room.said[0]


def test_a_run_that_moves_while_it_is_asked_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch)
    room.pass_seconds(11)
    assert (protocol.STACKS, None) in room.sent
    room.beats[1] = WAITS
    room.pass_seconds(1)
    assert room.said == ["the run moves again, after a stall: see the stacks of it"]


@pytest.mark.parametrize("who", ["own", "other"])
def test_a_stopped_launcher_is_no_stall(monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    room = Room(monkeypatch)
    if who == "own":
        room.own = replace(WAITS, held=True)
    else:
        room.beats[2] = replace(WAITS, held=True)
    room.pass_seconds(60)
    assert not room.said
    room.own, room.beats[2] = WAITS, WAITS
    room.pass_seconds(9)
    assert not room.said, "its bound begins when the launcher goes on"


def test_a_pause_of_rank_0_counts_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch)
    room.pass_seconds(5)
    room.now += 100.0
    room.watch.tick(100.0)
    room.pass_seconds(3)
    assert not room.said


def test_a_silent_worker_is_named_for_its_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch)
    room.pass_seconds(5)
    room.pass_seconds(12, 1)
    assert room.said[0] == "end: rank 1 on b sent no heartbeat for 10 s at step 7"


def test_elastic_a_frozen_worker_is_ended_by_another_on_its_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room(monkeypatch, elastic=True)
    room.pass_seconds(12, 1)
    assert (protocol.KILL, [2]) in room.sent and (protocol.FAIL, None) in room.sent
    line = "rank 1 on b sent no heartbeat for 10 s at step 7; the others continue without it"
    assert room.said == [line, "failed collectives"]


def test_elastic_one_alone_on_its_host_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch, elastic=True)
    room.watch._peers[2].hello = Hello(2, "c", "machine c", 2, 1.0)
    room.pass_seconds(30, 1)
    line = "rank 1 on b sent no heartbeat for 10 s at step 7; no other worker runs on its host "
    assert room.said == [line + "to end it: it is waited for"], "said once"


def test_elastic_a_worker_that_keeps_others_waiting_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room = Room(monkeypatch, elastic=True)
    room.pass_seconds(14)
    assert (protocol.KILL, [2]) in room.sent
    assert "rank 1 on b has not entered" in room.said[0]
    assert "the others continue without it" in room.said[0]


def test_elastic_workers_that_left_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Room(monkeypatch, elastic=True)
    room.watch.heard(1, protocol.FAREWELL, "")
    del room.beats[1]
    room.pass_seconds(4)
    assert not room.said
    room.pass_seconds(3)
    assert room.said == ["failed collectives"]
