"""Several runs in one start of the workers, since a start costs more than a small run: python -m tests.parallel.driver PLAN

PLAN is a JSON file with a list of {"overrides": [...], "mutant": name or null}. What a run raises stands in `<run>/raised`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TypedDict
from unittest.mock import patch

from distsent.data import token_store
from distsent.distributed.launchers import init_world
from distsent.distributed.world import World
from distsent.job import load_job
from distsent.reporting import plots
from distsent.runtime.signals import StopSignal
from distsent.training import reducer
from distsent.training.session import TrainingRun
from tests.parallel.mutants import MUTANTS


class Entry(TypedDict):
    overrides: list[str]
    mutant: str | None


class Deaf(StopSignal):
    """Hears no signals: for runs inside the process of the tests."""

    def __init__(self) -> None:
        self.requested = None


def entry(name: str, overrides: Sequence[str], mutant: str | None = None) -> Entry:
    return {"overrides": [*overrides, f"job.name={name}"], "mutant": mutant}


def drive(entries: Sequence[Entry], world: World) -> None:
    """Make the runs one after another, each under its mutant."""
    for item in entries:
        asked = load_job(None, item["overrides"])
        with MUTANTS[item["mutant"]](world.rank, world.size) if item["mutant"] else nullcontext():
            try:
                TrainingRun(asked, world, Deaf()).train()
            except Exception as error:
                if world.is_main:
                    (Path(asked.run.dir) / asked.job.name / "raised").write_text(
                        f"{type(error).__name__}: {error}"
                    )
                if item["mutant"] is None:
                    raise


if __name__ == "__main__":
    plan, here = Path(sys.argv[1]), init_world()
    undrawn = patch.object(
        plots, "available", return_value=False
    )  # they would take longer than the training
    several = patch.object(
        reducer, "BUCKET", 2_000
    )  # toys would fit into one bucket, which cannot leave early
    early = patch.object(
        reducer, "overlaps_backward", lambda world, flat: world.size > 1
    )  # as between machines
    with (
        undrawn,
        several,
        early,
        patch.object(token_store, "write_part", wraps=token_store.write_part) as tokenise,
    ):
        drive(json.loads(plan.read_text()), here)
    counts = here.allgather_object(tokenise.call_count, "test.tokenised")
    if here.is_main:
        (plan.parent / "tokenised.json").write_text(json.dumps(counts))
    here.shutdown()
