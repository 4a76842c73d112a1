"""Attacks on lives: kills at random moments, signals in every phase. Short in every run of the tests, long by `make chaos`."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests import launcher
from tests.chaos.fork_server import Nursery
from tests.chaos.life import (
    KILLS,
    SAVED,
    STEPS,
    Life,
    Record,
    StepResult,
    kill,
    launchers,
    send,
    workers,
)

PHASES = ("import", "tokenising", "first_step", "training", "evaluating", "saving")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
TARGETS = ("rank 0", "rank 1", "launcher")
SPAN = 9.0  # seconds: about what a start takes from its first to its last moment


def killed(
    folder: Path, seed: int, kills: int, record: Record, whole: str, nursery: Nursery | None = None
) -> Iterator[StepResult]:
    """Lives that are killed at random moments, six times each, and then let be; their last weights must be `whole`."""
    chance, count, number = random.Random(seed), 0, 0
    while count < kills:
        number += 1
        life = Life(folder / f"life-{number}", chance.randrange(2**32), nursery)
        before = 0
        for _ in range(min(6, kills - count)):
            outcome = random_kill(life, chance)
            assert outcome.finished or outcome.newest >= before, (
                f"{outcome}: step {before} was there before"
            )
            before = outcome.newest
            count += 1
            yield record.add(outcome)
            if outcome.finished:
                break
        equal = (life.hash if life.result else life.finish()) == whole
        record.note(system="distsent", life="killed", equal=equal, seed=life.seed)
        assert equal, f"life {life.seed}: other weights than the run that was let be"
        shutil.rmtree(life.folder)


def random_kill(life: Life, chance: random.Random) -> StepResult:
    """One start that is killed: half of them at any moment of its life, half while it trains, evaluates, saves or finishes."""
    whom = chance.choice(KILLS)
    with life.start(pause=chance.choice((0.0, 0.02, 0.05))) as started:
        if chance.random() < 0.5:
            wait(started, chance.uniform(0, SPAN))
        else:
            came = life.trained
            while started.process.poll() is None and life.trained <= came:
                time.sleep(0.005)
            wait(started, chance.uniform(0, 2.5))
        at = f"kill {whom}"
        now = time.monotonic()
        kill(started, whom)
        return life.after(started, at, now)


def wait(started: launcher.Started, seconds: float) -> None:
    until = time.monotonic() + seconds
    while started.process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


def signalled(
    folder: Path,
    seed: int,
    phase: str,
    times: int,
    record: Record,
    whole: str,
    nursery: Nursery | None = None,
) -> Iterator[StepResult]:
    """Lives that are asked to stop in one phase again and again, and then let be; their last weights must be `whole`."""
    chance = random.Random(f"{seed} {phase}")
    life = Life(folder / f"asked-{phase}", seed, nursery)
    for count in range(times):
        if life.result is not None or life.trained >= STEPS - 2:
            settle(life, phase, record, whole)
        yield record.add(stop(life, chance, phase, SIGNALS[count % 4], chance.choice(TARGETS)))
    settle(life, phase, record, whole)


def settle(life: Life, phase: str, record: Record, whole: str) -> None:
    """End a life, and look at its weights."""
    equal = (life.hash if life.result else life.finish()) == whole
    record.note(system="distsent", life=f"asked while {phase}", equal=equal, seed=life.seed)
    assert equal, f"life {life.seed}, {phase}: other weights than the run that was let be"
    shutil.rmtree(life.folder)


def stop(life: Life, chance: random.Random, phase: str, number: int, target: str) -> StepResult:
    """One start that hears a signal in a phase. Raises AssertionError unless it leaves in good order."""
    left = STEPS - life.trained - 1  # it must come before the end
    visit = {
        "training": chance.randint(2, max(2, min(9, left))),
        "saving": chance.randint(1, 2 if left > SAVED else 1),
    }.get(phase, 1)
    if phase == "tokenising":
        shutil.rmtree(life.folder / ".tokens", ignore_errors=True)
    before = len(list((life.run / "checkpoints").glob("step-*")))
    # The first worker alone tokenises and saves; who has not got to its imports yet has no ears.
    watched = {"tokenising": (0,), "saving": (0,), "import": (0, 1)}.get(
        phase, (chance.randint(0, 1),)
    )
    with life.start(hold=f"{phase}:{visit}") as started:
        started.until(lambda: all(life.is_at(phase, rank) for rank in watched))
        now = time.monotonic()
        ask(started, number, target)
        life.let_go()
        outcome = life.after(started, f"{signal.Signals(number).name} {phase} {target}", now)
        told = f"{outcome}\nstatus: {life.status}\n{started.output}"
    assert outcome.orphans == 0 and not outcome.damaged, told
    cut = (
        phase == "import" and target == "launcher"
    )  # two seconds after its signal mpirun kills what still imports
    assert outcome.finished or life.status.startswith("stopped: ") or cut, told
    assert outcome.finished or target == "launcher" or outcome.code == 75, told
    assert phase == "tokenising" or outcome.newest or (phase == "import" and before == 0), told
    assert outcome.lost == 0, told
    return outcome


def ask(started: launcher.Started, number: int, target: str) -> None:
    """A signal to a worker, or to the launcher as its user sends it: Ctrl-C goes to the whole group of a terminal's processes."""
    if target != "launcher":
        send([workers(started)[int(target[-1])]], number)
    elif number == signal.SIGINT:
        send([*launchers(started), *workers(started).values()], number)
    else:
        send([started.process.pid], number)
