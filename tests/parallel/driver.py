"""Several runs in one start of the workers:  python -m tests.parallel.driver PLAN

A start costs more than a small run.

PLAN is a JSON file with a list of {"overrides": [...], "mutant": name or null}. The error of a run
is written to `<run>/raised`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TypedDict
from unittest.mock import patch

from distsent.data.tokens import store as token_store
from distsent.distributed.launchers import init_world
from distsent.distributed.world import World
from distsent.evaluation import intervals
from distsent.job import load_job
from distsent.reporting import plots
from distsent.runtime import device as devices
from distsent.runtime.signals import StopSignal
from distsent.training import exchange, reducer
from distsent.training.session import TrainingRun
from tests.parallel.mutants import MUTANTS

CHUNK = 1_000  # numbers: so that each worker of a tiny model has some chunks


class Entry(TypedDict):
    overrides: list[str]
    mutant: str | None


class NoSignals(StopSignal):
    """Installs no signal handlers: for runs in the process of the tests."""

    def __init__(self) -> None:
        self.requested = None


def entry(name: str, overrides: Sequence[str], mutant: str | None = None) -> Entry:
    return {"overrides": [*overrides, f"job.name={name}"], "mutant": mutant}


@contextmanager
def quick() -> Iterator[None]:
    """Without what takes longer than a tiny training: pictures, intervals, the machine's speed."""
    with (
        patch.object(plots, "available", return_value=False),
        patch.object(intervals, "DRAWS", intervals.TOGETHER),
        patch.object(devices, "peak_flops", return_value=1e12),
    ):
        yield


def drive(entries: Sequence[Entry], world: World, complete: bool = False) -> None:
    """Train the runs one after another, each with its mutant. `complete`: not `quick`."""
    for item in entries:
        asked, mutant = load_job(None, item["overrides"]), item["mutant"]
        with (
            nullcontext() if complete else quick(),
            MUTANTS[mutant](world.rank, world.size) if mutant else nullcontext(),
        ):
            try:
                TrainingRun(asked, world, NoSignals()).train()
            except Exception as error:
                if world.is_main:
                    run = Path(asked.run.dir) / asked.job.name
                    run.mkdir(parents=True, exist_ok=True)
                    (run / "raised").write_text(f"{type(error).__name__}: {error}")
                if mutant is None:
                    raise


if __name__ == "__main__":
    plan, here = Path(sys.argv[1]), init_world()
    several = patch.object(
        reducer, "BUCKET", 2_000
    )  # a tiny model fits into one bucket, which cannot leave during backward
    chunks = patch.object(exchange, "CHUNK", CHUNK)
    early = patch.object(
        reducer, "overlaps_backward", lambda world, flat: world.size > 1
    )  # as between machines
    with (
        several,
        chunks,
        early,
        patch.object(token_store, "write_part", wraps=token_store.write_part) as tokenize,
    ):
        drive(json.loads(plan.read_text()), here)
    counts = here.allgather_object(tokenize.call_count, "test.tokenized")
    if here.is_main:
        (plan.parent / "tokenized.json").write_text(json.dumps(counts))
    here.shutdown()
