"""Attacks on runs: kills at random moments, signals in every phase.

A few of them run with every test run, hundreds with `make chaos`.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests import launcher
from tests.chaos.attacked_run import (
    KILLS,
    SAVED,
    STEPS,
    AttackedRun,
    AttackLog,
    AttackResult,
    kill,
    launchers,
    send,
    workers,
)
from tests.chaos.fork_server import ForkServer

PHASES = ("import", "tokenizing", "first_step", "training", "evaluating", "saving")
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
TARGETS = ("rank 0", "rank 1", "launcher")
START_SECONDS = 9.0  # about the duration of one start, imports to end


def killed_runs(
    folder: Path, seed: int, kills: int, log: AttackLog, expected: str, server: ForkServer
) -> Iterator[AttackResult]:
    """Runs that are killed six times each at random moments, then finished undisturbed.

    Their weights must equal `expected`.
    """
    rng, count, number = random.Random(seed), 0, 0
    while count < kills:
        number += 1
        run = AttackedRun(folder / f"run-{number}", rng.randrange(2**32), server)
        before = 0
        for _ in range(min(6, kills - count)):
            result = random_kill(run, rng)
            kept = result.finished or result.newest >= before
            assert kept, f"{result}: the checkpoint of step {before} is gone"
            before = result.newest
            count += 1
            yield log.add(result)
            if result.finished:
                break
        finish_and_compare(run, "killed", log, expected)


def random_kill(run: AttackedRun, rng: random.Random) -> AttackResult:
    """One start that is killed: half of them at any moment, half after their first new step."""
    target = rng.choice(KILLS)
    with run.start(step_delay=rng.choice((0.0, 0.02, 0.05))) as started:
        if rng.random() < 0.5:
            wait_while_running(started, rng.uniform(0, START_SECONDS))
        else:
            before = run.trained
            while started.process.poll() is None and run.trained <= before:
                time.sleep(0.005)
            wait_while_running(started, rng.uniform(0, 2.5))
        now = time.monotonic()
        kill(started, target)
        return run.after_attack(started, f"kill {target}", now)


def wait_while_running(started: launcher.Started, seconds: float) -> None:
    until = time.monotonic() + seconds
    while started.process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


def signaled_run(
    run: AttackedRun, phase: str, times: int, log: AttackLog, expected: str
) -> Iterator[AttackResult]:
    """A run that gets signals in one phase again and again, then finishes undisturbed.

    Its weights must equal `expected`. A run with too few steps left is finished and replaced.
    """
    rng = random.Random(f"{run.seed} {phase}")
    for count in range(times):
        if run.result is not None or run.trained >= STEPS - 2:
            finish_and_compare(run, f"signal while {phase}", log, expected)
        number, target = SIGNALS[count % 4], rng.choice(TARGETS)
        yield log.add(stop_by_signal(run, rng, phase, number, target))
    finish_and_compare(run, f"signal while {phase}", log, expected)


def finish_and_compare(run: AttackedRun, attacked: str, log: AttackLog, expected: str) -> None:
    """Finish a run, compare its weights with the undisturbed run's, and delete its folder."""
    equal = (run.hash if run.result else run.finish()) == expected
    log.note(system="distsent", attacked=attacked, equal=equal, seed=run.seed)
    assert equal, f"run {run.seed}, {attacked}: weights differ from the undisturbed run's"
    shutil.rmtree(run.folder)


def stop_by_signal(
    run: AttackedRun, rng: random.Random, phase: str, number: int, target: str
) -> AttackResult:
    """One start that gets a signal in a phase. Raises AssertionError unless it stops and saves."""
    left = STEPS - run.trained - 1  # the signal must come before the end
    visit = {
        "training": rng.randint(2, max(2, min(9, left))),
        "saving": rng.randint(1, 2 if left > SAVED else 1),
    }.get(phase, 1)
    if phase == "tokenizing":
        shutil.rmtree(run.folder / ".tokens", ignore_errors=True)
    before = len(list((run.run / "checkpoints").glob("step-*")))
    # Only rank 0 tokenizes and saves. A worker handles no signals before its imports start.
    watched = {"tokenizing": (0,), "saving": (0,), "import": (0, 1)}.get(phase)
    watched = watched or (rng.randint(0, 1),)
    with run.start(pause_at=f"{phase}:{visit}") as started:
        started.until(lambda: all(run.is_at(phase, rank) for rank in watched))
        now = time.monotonic()
        request_stop(started, number, target)
        run.resume_workers()
        attack = f"{signal.Signals(number).name} {phase} {target}"
        result = run.after_attack(started, attack, now)
        details = f"{result}\nstatus: {run.status}\n{started.output}"
    assert result.orphans == 0 and not result.damaged, details
    # Two seconds after its own signal mpirun kills workers that are still importing.
    cut = phase == "import" and target == "launcher"
    assert result.finished or run.status.state == "stopped" or cut, details
    assert result.finished or target == "launcher" or result.code == 75, details
    no_step_yet = phase == "tokenizing" or (phase == "import" and before == 0)
    assert result.newest or no_step_yet, details
    assert result.lost == 0, details
    return result


def request_stop(started: launcher.Started, number: int, target: str) -> None:
    """Signal a worker, or the launcher as users do: Ctrl-C reaches a terminal's process group."""
    if target != "launcher":
        send([workers(started)[int(target[-1])]], number)
    elif number == signal.SIGINT:
        send([*launchers(started), *workers(started).values()], number)
    else:
        send([started.process.pid], number)
