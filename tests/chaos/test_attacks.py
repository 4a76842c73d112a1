"""Real runs under horovodrun are killed, signaled and frozen, then resumed to the same final bits.

`make chaos` kills 200 times at random and sends 50 signals in each phase. KILLS, SIGNALS and SEED
change that. Each attack becomes one line in the file that RECORD names (chaos.jsonl);
`python -m tests.chaos.table chaos.jsonl` formats them as a table.
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

from tests.chaos.attacked_run import NP, AttackedRun, AttackLog, kill, send, workers
from tests.chaos.attacks import PHASES, killed_runs, request_stop, signaled_run
from tests.chaos.fork_server import ForkServer
from tests.launcher import wait_for

pytestmark = pytest.mark.timeout(1800)  # several starts each

SEED = int(os.environ.get("SEED", random.randrange(10**6)))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("fork_server") / "server") as server:
        yield server


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> str:
    """The final bits of an undisturbed run."""
    return AttackedRun(tmp_path_factory.mktemp("undisturbed"), 0, server).finish()


@pytest.fixture
def log(tmp_path: Path) -> AttackLog:
    return AttackLog(Path(os.environ.get("RECORD", tmp_path / "chaos.jsonl")))


def test_killed_four_times_it_ends_with_the_same_bits(
    tmp_path: Path, expected: str, log: AttackLog, server: ForkServer
) -> None:
    """Each kill comes in the twelfth step of a start.

    Once rank 1 dies before it updates its part of the shared weights, and rank 0 updates its own.
    """
    run = AttackedRun(tmp_path, 0, server)
    places = {"rank 0": "training", "launcher": "training", "rank 1": "updating"}
    for target, place in (*places.items(), ("everything", "updating")):
        before = run.trained
        # Workers that each have a copy of the weights go on with the same bits.
        copies = ["train.share_weights=false"] if target == "launcher" else []
        with run.start(pause_at=f"{place}:12", changes=copies) as started:
            started.until(lambda place=place: all(run.is_at(place, rank) for rank in range(NP)))  # type: ignore[misc]
            now = time.monotonic()
            kill(started, target)
            if target == "rank 1":
                run.resume_workers()
            if target == "launcher":  # the workers notice it, go on and save
                wait_for(lambda: run.is_at("stop_requested", 0), 60)
                run.resume_workers()
            result = log.add(run.after_attack(started, f"kill {target}", now))
        assert result.orphans == 0 and not result.damaged and not result.finished, result
        assert result.newest > before and result.lost <= 6, result
        if target == "rank 0":
            line = r"rank 1: rank 0 died around step \d+; the last checkpoint is intact"
            assert re.search(line, run.last_output), run.last_output
    assert run.finish() == expected


@pytest.mark.parametrize(
    ("phase", "number", "target"),
    [
        ("tokenizing", signal.SIGUSR1, "rank 1"),
        ("evaluating", signal.SIGTERM, "rank 1"),
        pytest.param("saving", signal.SIGINT, "rank 0", marks=pytest.mark.chaos),
        pytest.param("training", signal.SIGUSR2, "launcher", marks=pytest.mark.chaos),
    ],
)
def test_a_signal_in_any_phase_saves_and_stops(
    tmp_path: Path, server: ForkServer, phase: str, number: int, target: str
) -> None:
    run = AttackedRun(tmp_path, 0, server)
    with run.start(pause_at=f"{phase}:1") as started:
        started.until(lambda: run.is_at(phase, 0))
        now = time.monotonic()
        request_stop(started, number, target)
        if phase == "tokenizing" or target == "launcher":
            # The request travels with the heartbeat; workers watch their launcher. A launcher that
            # was the target has ended by then.
            wait_for(lambda: run.is_at("stop_requested", 0), 60)
        run.resume_workers()
        result = run.after_attack(started, phase, now)
    details = f"{result}\nstatus: {run.status}\n{run.last_output}"
    assert result.orphans == 0 and not result.damaged and result.lost == 0, details
    assert run.status.state == "stopped", details
    assert result.code == (75 if target != "launcher" else -number), details
    newest = {"tokenizing": 0, "evaluating": 10, "training": 1}.get(phase, result.newest)
    assert result.newest == newest, details
    assert "Traceback" not in run.last_output, details


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.chaos), 1])
def test_a_frozen_worker_is_named_and_all_end(
    tmp_path: Path, expected: str, server: ForkServer, rank: int
) -> None:
    run = AttackedRun(tmp_path, 0, server)
    with run.start(step_delay=0.05, changes=["run.stall_seconds=8"]) as started:
        started.until(lambda: run.trained >= 5)
        now = time.monotonic()
        send([workers(started)[rank]], signal.SIGSTOP)
        result = run.after_attack(started, f"freeze rank {rank}", now)
    assert result.orphans == 0 and result.code not in (0, 75) and not result.finished, result
    line = rf"rank {rank}( on \S+)? sent no heartbeat for 8 s (at|around) step \d+"
    assert re.search(line, run.last_output), run.last_output
    assert run.finish() == expected


def test_a_second_signal_ends_the_run_at_once(tmp_path: Path, server: ForkServer) -> None:
    run = AttackedRun(tmp_path, 0, server)
    with run.start(pause_at="saving:2") as started:
        started.until(lambda: run.is_at("saving", 0))
        worker = workers(started)[0]
        send([worker], signal.SIGTERM)
        now = time.monotonic()
        while worker in started.processes():  # a repeat within two seconds counts as the same one
            time.sleep(0.5)
            send([worker], signal.SIGTERM)
        # The save that it would have waited for is still paused.
        result = run.after_attack(started, "twice", now)
    details = f"{result}\n{run.last_output}"
    assert result.orphans == 0 and result.newest == 3 and not result.damaged, details


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_hundreds_of_kills(
    tmp_path: Path, expected: str, log: AttackLog, server: ForkServer
) -> None:
    print(f"SEED={SEED}")
    kills = int(os.environ.get("KILLS", "200"))
    for result in killed_runs(tmp_path, SEED, kills, log, expected, server):
        assert result.orphans == 0 and not result.damaged, result
        # Saved every 3 steps; a save is complete before the next one starts.
        assert result.lost <= 6, result


@pytest.mark.chaos
@pytest.mark.timeout(0)
@pytest.mark.parametrize("phase", PHASES)
def test_dozens_of_signals(
    tmp_path: Path, expected: str, log: AttackLog, server: ForkServer, phase: str
) -> None:
    print(f"SEED={SEED}")
    run = AttackedRun(tmp_path / phase, SEED, None if phase == "import" else server)
    times = int(os.environ.get("SIGNALS", "50"))
    assert list(signaled_run(run, phase, times, log, expected))
