"""Real runs under horovodrun are killed, asked to stop and frozen; the same command carries on, and the last bits are the same.

`make chaos` attacks 200 times at random and 50 times in each phase (KILLS, SIGNALS and SEED change that) and leaves a line for each
attack in the file that RECORD names (chaos.jsonl); `python -m tests.chaos.table chaos.jsonl` makes a table of them.
"""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.attacks import PHASES, ask, killed, signalled
from tests.chaos.fork_server import Nursery
from tests.chaos.life import Life, Record, kill, send, workers
from tests.launcher import wait_for

pytestmark = pytest.mark.timeout(1800)  # several starts each

SEED = int(os.environ.get("SEED", random.randrange(10**6)))


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with Nursery(tmp_path_factory.mktemp("nursery") / "nursery") as nursery:
        yield nursery


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, nursery: Nursery) -> str:
    """The last bits of the run that is let be."""
    return Life(tmp_path_factory.mktemp("whole"), 0, nursery).finish()


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(
        Path(os.environ["RECORD"]) if "RECORD" in os.environ else tmp_path / "record.jsonl"
    )


def test_killed_again_and_again_it_ends_with_the_same_bits(
    tmp_path: Path, whole: str, record: Record, nursery: Nursery
) -> None:
    """Each kill comes while it trains, at a step that it has just told of."""
    life = Life(tmp_path, 0, nursery)
    for whom in ("rank 0", "launcher", "everything"):
        came = life.trained
        with life.start(pause=0.05) as started:
            started.until(lambda came=came: life.trained > came + 7)  # type: ignore[misc]
            now = time.monotonic()
            kill(started, whom)
            outcome = record.add(life.after(started, f"kill {whom}", now))
        assert outcome.orphans == 0 and not outcome.damaged and not outcome.finished, outcome
        assert outcome.newest > came and outcome.lost <= 6, outcome
        if whom == "rank 0":
            assert re.search(
                r"rank 1: rank 0 died around step \d+; the last checkpoint is intact",
                life.last_output,
            ), life.last_output
    assert life.finish() == whole


@pytest.mark.parametrize(
    ("phase", "number", "target"),
    [
        ("tokenising", signal.SIGUSR1, "rank 1"),
        ("evaluating", signal.SIGTERM, "rank 1"),
        pytest.param("saving", signal.SIGINT, "rank 0", marks=pytest.mark.chaos),
        pytest.param("training", signal.SIGUSR2, "launcher", marks=pytest.mark.chaos),
    ],
)
def test_asked_to_stop_in_any_phase_it_leaves_saved(
    tmp_path: Path, nursery: Nursery, phase: str, number: int, target: str
) -> None:
    life = Life(tmp_path, 0, nursery)
    with life.start(hold=f"{phase}:1") as started:
        started.until(lambda: life.is_at(phase, 0))
        now = time.monotonic()
        ask(started, number, target)
        if (
            phase == "tokenising" or target == "launcher"
        ):  # a wish travels with the pulse; workers look after their launcher
            wait_for(
                lambda: life.is_at("asked", 0), 60
            )  # the launcher itself is gone by then, where it was the target
        life.let_go()
        outcome = life.after(started, phase, now)
    assert outcome.orphans == 0 and not outcome.damaged and outcome.lost == 0, (
        outcome,
        life.last_output,
    )
    assert life.status.startswith("stopped: "), (outcome, life.last_output)
    assert outcome.code == (75 if target != "launcher" else -number), (outcome, life.last_output)
    expected = {"tokenising": 0, "evaluating": 10, "training": 1}.get(phase, outcome.newest)
    assert outcome.newest == expected, outcome
    assert "Traceback" not in life.last_output, life.last_output


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.chaos), 1])
def test_a_frozen_worker_is_named_and_all_end(
    tmp_path: Path, whole: str, nursery: Nursery, rank: int
) -> None:
    life = Life(tmp_path, 0, nursery)
    with life.start(pause=0.05, changes=["run.stall_seconds=8"]) as started:
        started.until(lambda: life.trained >= 5)
        now = time.monotonic()
        send([workers(started)[rank]], signal.SIGSTOP)
        outcome = life.after(started, f"freeze rank {rank}", now)
    assert outcome.orphans == 0 and outcome.code not in (0, 75) and not outcome.finished, outcome
    assert re.search(
        rf"rank {rank}( on \S+)? sent no heartbeat for 8 s (at|around) step \d+", life.last_output
    ), life.last_output
    assert life.finish() == whole


def test_a_second_signal_leaves_at_once(tmp_path: Path, nursery: Nursery) -> None:
    life = Life(tmp_path, 0, nursery)
    with life.start(hold="saving:2") as started:
        started.until(lambda: life.is_at("saving", 0))
        worker = workers(started)[0]
        send([worker], signal.SIGTERM)
        now = time.monotonic()
        while (
            worker in started.processes()
        ):  # repeated within two seconds it is taken for the same one
            time.sleep(0.5)
            send([worker], signal.SIGTERM)
        outcome = life.after(
            started, "twice", now
        )  # nobody let go of the save that it would have waited for
    assert outcome.orphans == 0 and outcome.newest == 3 and not outcome.damaged, (
        outcome,
        life.last_output,
    )


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_hundreds_of_kills(tmp_path: Path, whole: str, record: Record, nursery: Nursery) -> None:
    print(f"SEED={SEED}")
    for outcome in killed(
        tmp_path, SEED, int(os.environ.get("KILLS", "200")), record, whole, nursery
    ):
        assert outcome.orphans == 0 and not outcome.damaged, outcome
        assert outcome.lost <= 6, (
            outcome
        )  # saved every 3, and one save is whole before the next begins


@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize("phase", PHASES)
def test_dozens_of_signals(
    tmp_path: Path, whole: str, record: Record, nursery: Nursery, phase: str
) -> None:
    print(f"SEED={SEED}")
    warm = None if phase == "import" else nursery
    assert list(
        signalled(tmp_path, SEED, phase, int(os.environ.get("SIGNALS", "50")), record, whole, warm)
    )
