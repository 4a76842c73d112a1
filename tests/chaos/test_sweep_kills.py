"""A sweep whose controller is killed at random moments has the same trials, none twice."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from subprocess import TimeoutExpired
from typing import Any

import pytest

from tests import sweeps
from tests.launcher import Started, kill

# Decided by what earlier trials did, one after another; and two at once, where nothing depends on
# who is faster
SPACES = {
    "one at a time": ('sampler = "tpe"\npruner = "median"\ntrials = 9', "1"),
    "two at once": ('sampler = "random"\ntrials = 8', "2"),
}


def start(words: Sequence[str], at_once: str) -> Started:
    command = ["-m", "tests.sweeps", *words, "--at-once", at_once]
    return Started(command, env={"FAKE_SECONDS": "0.05"})


def ended(folder: Path) -> dict[str, Any]:
    keys = "state", "value", "scores", "parameters", "reason", "failures"
    return {name: [one[key] for key in keys] for name, one in sweeps.trials(folder).items()}


def arguments(folder: Path, search: str) -> list[str]:
    folder.mkdir()
    return sweeps.files(folder, sweeps.SPACE.replace('sampler = "random"\ntrials = 6', search))


def attack(folder: Path, search: str, at_once: str, kills: int, seed: int) -> None:
    """Kill all processes of the sweep `kills` times, then let it end."""
    rng, words = random.Random(seed), arguments(folder, search)
    for _ in range(kills):
        enough = count_lines(folder) + rng.randrange(0, 5)
        with start(words, at_once) as sweep:
            sweep.until(partial(is_at, folder, enough))
            pause(sweep, rng.uniform(0.0, 0.3))
            kill(sweep.process.pid)  # the controller first, as if it alone had died
            pause(sweep, rng.choice([0.0, 0.1]))
    with start(words, at_once) as sweep:
        done = sweep.wait(600)
    assert done.code == 0, done.output


def count_lines(folder: Path) -> int:
    return sum(map(len, sweeps.trained(folder).values()))


def is_at(folder: Path, lines: int) -> bool:
    """Whether the trainer has written that many lines, or the sweep is over."""
    return count_lines(folder) >= lines or (folder / "runs/job-sweep/best.toml").exists()


def pause(sweep: Started, seconds: float) -> None:
    with suppress(TimeoutExpired):
        sweep.process.wait(seconds)


LONG = [
    pytest.param(kind, 5, seed, marks=pytest.mark.chaos) for kind in SPACES for seed in range(5)
]


@pytest.mark.parametrize(("kind", "kills", "seed"), [("one at a time", 3, 5), *LONG])
def test_a_killed_sweep_has_the_same_trials(
    tmp_path: Path, kind: str, kills: int, seed: int
) -> None:
    search, at_once = SPACES[kind]
    words = arguments(tmp_path / "calm", search)
    with start(words, at_once) as sweep:
        assert sweep.wait(600).code == 0
    attack(tmp_path / "attacked", search, at_once, kills, seed)
    calm, attacked = ended(tmp_path / "calm"), ended(tmp_path / "attacked")
    assert attacked == calm and len({repr(one[3]) for one in calm.values()}) == len(calm)
    best = [tmp_path / each / "runs/job-sweep/best.toml" for each in ("calm", "attacked")]
    first, second = (path.read_text().replace(str(path.parents[2]), "") for path in best)
    assert first == second
    for name, lines in sweeps.trained(tmp_path / "attacked").items():
        assert "twice at once" not in lines, name
        epochs = [int(line.split()[1]) for line in lines if line.startswith("epoch")]
        # A kill between an epoch and its save trains that epoch again, never more
        assert all(b in (a, a + 1) for a, b in pairwise(epochs)), lines
