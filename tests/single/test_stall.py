"""Who keeps the others waiting, and after how long: from positions alone."""

from __future__ import annotations

import re

import pytest

from distsent.distributed.progress import Position, Progress
from distsent.runtime.heartbeat.main_watch import ProgressClock
from distsent.runtime.heartbeat.stall import bound, judge, verdict_bound

CYCLE = ["gradient.0", "gradient.1", "loop.bad_rows"] * 3


def at(entered: int, collective: str = "") -> Position:
    return Position("step", 7, entered, collective)


@pytest.mark.parametrize(
    ("name", "positions", "blamed", "why"),
    [
        ("it sleeps before the all-reduce", [at(9, "a"), at(8)], [1], "not entered.* 'a'"),
        ("rank 0 saves", [at(8), at(9, "saved"), at(9, "saved")], [0], "not entered.* 'saved'"),
        ("two sleep", [at(9, "a"), at(8), at(7), at(9, "a")], [1, 2], "not entered.* 'a'"),
        # Rank 2 waits in a tree of a broadcast for rank 1, and rank 0, its root, went on.
        ("one waits for it below", [at(10, "b"), at(8), at(9, "a")], [1], "not entered.* 'b'"),
        ("it waits in an old one", [at(9, "b"), at(8, "a"), at(9, "b")], [1], "not entered.* 'b'"),
        ("one skipped", [at(9, "a"), at(9, "a"), at(9, "b")], [2], "waits in 'b'.* 'a'.* skipped"),
        ("rank 0 skipped", [at(9, "b"), at(9, "a"), at(9, "a")], [0], "waits in 'b'.* skipped"),
        ("it left the collective alone", [at(9, "a"), at(9)], [1], "does not wait in 'a'"),
        ("the network", [at(9, "a"), at(9, "a"), at(9, "a")], [], "all workers wait in 'a'"),
        ("nobody waits", [at(9), at(9)], [0, 1], "no worker waits"),
    ],
)
def test_the_blame(name: str, positions: list[Position], blamed: list[int], why: str) -> None:
    verdict = judge(dict(enumerate(positions)))
    assert [*verdict.blamed] == blamed
    assert re.search(why, verdict.why), verdict.why


@pytest.mark.parametrize(
    ("history", "own", "other", "blamed"),
    [
        ([*CYCLE, "gradient.0"], "gradient.0", "gradient.1", [1]),
        ([*CYCLE, "gradient.1"], "gradient.1", "gradient.0", [0]),
        # Two alone tell nothing by who follows whom: what followed the one before does.
        (["a", "b", "a", "b", "a"], "a", "b", [1]),
        (["a", "b", "a", "b", "b"], "b", "a", [0]),
        # A rare one is due, which the other skipped, though mostly `a` came after `b`.
        (["a", "b", "saved", "a", "b", "a", "b", "saved"], "saved", "a", [1]),
        (["x", "y"], "y", "z", [0, 1]),
    ],
)
def test_of_two_workers_the_history_tells_who_skipped(
    history: list[str], own: str, other: str, blamed: list[int]
) -> None:
    verdict = judge({0: at(9, own), 1: at(9, other)}, history)
    assert [*verdict.blamed] == blamed, verdict.why
    assert "skipped" in verdict.why


@pytest.mark.parametrize(
    ("phase", "computing", "steps", "seconds"),
    [
        ("step", False, [], 60),
        ("step", True, [], 600),  # the first step may take long, if it computes
        ("step", True, [1.0, 1.2, 900.0], 60),
        ("step", False, [20.0, 30.0, 40.0], 300),
        ("evaluate", False, [1.0], 60),
        ("save", False, [1.0], 600),
        ("load", False, [], 600),
        ("tokenize", True, [], 6000),
        ("download", False, [], 3600),
    ],
)
def test_the_bound_of_a_phase(
    phase: str, computing: bool, steps: list[float], seconds: float
) -> None:
    assert bound(Position(phase), computing, 60.0, steps) == seconds


def test_the_bound_is_that_of_the_worker_to_blame() -> None:
    saving = {0: Position("save", 7, 8), 1: Position("step", 7, 9, "saved")}
    assert verdict_bound(judge(saving), saving, {}, 60.0, [1.0]) == 600
    sleeping = {0: Position("save", 7, 9, "saved"), 1: Position("step", 7, 8)}
    assert verdict_bound(judge(sleeping), sleeping, {}, 60.0, [1.0]) == 60
    network = {0: Position("load", 0, 9, "w"), 1: Position("load", 0, 9, "w")}
    assert verdict_bound(judge(network), network, {}, 60.0, [1.0]) == 600


def test_any_change_of_any_worker_is_progress_and_a_pause_is_no_time() -> None:
    clock, now = ProgressClock(0.0), {0: at(1, "a"), 1: at(0)}
    assert clock.idle(1.0, now) == 0.0 and clock.idle(9.0, now) == 8.0
    clock.shift(5.0)  # this process was stopped for 5 of these seconds
    assert clock.idle(9.0, now) == 3.0
    progress = Progress()
    progress.position = now[1]
    progress.worked()
    assert clock.idle(10.0, now | {1: progress.position}) == 0.0
    clock.restart(50.0)
    assert clock.idle(51.0, now | {1: progress.position}) == 1.0


def test_the_median_step_is_measured() -> None:
    clock = ProgressClock(0.0)
    for step in range(6):
        clock.idle(10.0 * step + (500.0 if step > 2 else 0.0), {0: Position("step", step)})
    assert sorted(clock.steps) == [10.0, 10.0, 10.0, 510.0]


def test_a_worker_records_the_collectives_that_it_enters() -> None:
    progress = Progress()
    with progress.phase("save"), progress.waiting("saved"):
        progress.enter("saved")
        assert progress.position == Position("save", 0, 1, "saved")
    assert progress.position == Position("import", 0, 1) and progress.history == ["saved"]
