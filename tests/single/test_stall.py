"""Who keeps the others waiting, and after how long: from positions alone."""

from __future__ import annotations

import re

import pytest

from distsent.distributed.progress import Position, Progress
from distsent.runtime.heartbeat.main_watch import ProgressClock
from distsent.runtime.heartbeat.stall import bound, judge, verdict_bound

STEP = ["g0", "g1", "c"]


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
        ("one skipped", [at(9, "a"), at(9, "a"), at(9, "b")], [2], "entered 'b'.* 'a'.* skipped"),
        ("rank 0 skipped", [at(9, "b"), at(9, "a"), at(9, "a")], [0], "entered 'b'.* skipped"),
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
    ("before", "main", "other", "blamed"),
    [
        # Rank 1 left out a save's, and has started the gradients of the next step.
        (STEP * 2, ["saved"], ["g0", "g1"], [1]),
        (STEP * 2, ["g0", "g1"], ["saved"], [0]),
        (STEP * 2, ["g0"], ["g1"], [1]),
        (STEP * 2, ["g1"], ["g0"], [0]),
        # Two alone tell nothing by who follows whom: what followed the one before does.
        (["a", "b", "a", "b"], ["a"], ["b"], [1]),
        (["a", "b", "a", "b"], ["b"], ["a"], [0]),
        (["a", "b", "saved", "a", "b", "a", "b"], ["saved"], ["a"], [1]),
        (["x"], ["y"], ["z"], [0, 1]),
        (STEP, ["saved"], ["g0"], [0, 1]),  # the first save, and one gradient alone
        ([], ["y"], ["z"], [0, 1]),
    ],
)
def test_of_two_workers_the_names_tell_who_skipped(
    before: list[str], main: list[str], other: list[str], blamed: list[int]
) -> None:
    entered = {0: [*before, *main], 1: [*before, *other][1:]}  # of one, less is known
    positions = {
        0: at(len(entered[0]), main[-1]),
        1: at(len(before) + len(other), other[-1]),
    }
    verdict = judge(positions, entered)
    assert [*verdict.blamed] == blamed, verdict.why
    assert "skipped" in verdict.why


def test_of_three_the_majority_is_right() -> None:
    entered = {0: ["a", "b"], 1: ["a", "c", "d"], 2: ["a", "b"]}
    positions = {0: at(12, "b"), 1: at(13, "c"), 2: at(12, "b")}
    verdict = judge(positions, entered)
    assert verdict.blamed == (1,)
    assert verdict.why == "entered 'c', the others 'b': it skipped a collective"


def test_equal_names_leave_the_blame_to_the_positions() -> None:
    entered = {0: ["a", "b", "c"], 1: ["a", "b"], 2: []}
    positions = {0: at(12, "c"), 1: at(11), 2: at(11)}
    assert judge(positions, entered).blamed == (1, 2)


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
    assert progress.position == Position("import", 0, 1) and progress.recent == ["saved"]
