"""What saving costs: the same training with a save every other second and without one, in turn; the difference, for each save.

Saves that often make the cost of one stand out from the noise of a run. The workers' own clock of wall time is read at each
step, so waiting, copying, the writer's share of the cores and what it keeps off the caches all count.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import horovodrun, run
from benchmarks.table import spread
from benchmarks.workload import Workload

ROUNDS, STEPS, WARM, EVERY, USUAL = 3, 120, 10, 2.0, 30.0
WORK = Workload("emotion", "minilm")


def main(words: list[str]) -> None:
    """A worker: train, and leave the times at which steps ended and the number of saves beside the run."""
    from distsent.distributed import world
    from distsent.job import load_job
    from distsent.runtime.signals import StopSignal
    from distsent.training.loop import Loop
    from distsent.training.session import TrainingSession

    ends: list[float] = []
    count, save, saves = Loop._count, Loop.save, [0]

    def counted(self: Loop, *rest: Any) -> None:
        count(self, *rest)
        ends.append(time.perf_counter())

    def saved(self: Loop) -> None:
        save(self)
        saves[0] += WARM <= len(ends) < STEPS  # the last one is the end's

    Loop._count, Loop.save = counted, saved  # type: ignore[method-assign]
    world, asked = world.start(), load_job(None, words)
    TrainingSession(asked, world, StopSignal()).train()
    if world.is_main:
        out = {"seconds": ends[-1] - ends[WARM - 1], "saves": saves[0]}
        (Path(asked.run.dir) / "out.json").write_text(json.dumps(out))
    world.shutdown()


def once(every: float, corpus: Path, folder: Path) -> dict[str, Any]:
    keys = [
        f"data.source={corpus}", f"data.store={corpus.parent}/stores", f"model.name={materials.encoder(WORK.encoder, folder)}",
        f"train.precision={WORK.precision}", f"train.batch_size={WORK.batch_size}", f"train.max_steps={STEPS}",
        "data.max_eval_rows=16", "eval.every=end", "log.tensorboard=false", "job.name=run", f"run.dir={folder}",
        f"checkpoint.every_seconds={every}",
    ]  # fmt: skip
    run([*horovodrun(WORK), "benchmarks.saves", *keys], WORK, folder)
    result: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return result


def report() -> str:
    costs, saves = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        corpus = materials.corpus(WORK, Path(scratch) / "corpus")
        for turn in range(ROUNDS):
            without, often = (
                once(every, corpus, Path(scratch) / f"{turn}-{every:g}") for every in (1e6, EVERY)
            )
            costs.append((often["seconds"] - without["seconds"]) / often["saves"])
            saves += often["saves"]
            print(
                f"round {turn}: {without['seconds']:.1f} s, with {often['saves']} saves {often['seconds']:.1f} s",
                flush=True,
            )
    return "\n".join([
        "# What a save costs", "",
        about(), "",
        f"Emotion, MiniLM, bf16, 2 workers x 1 thread, {STEPS - WARM} steps of {WORK.batch_size}: with a save every {EVERY:g} s "
        f"and without, {ROUNDS} times in turn, {saves} saves of 273 MB in all. Wall time of the training path, all included. "
        "Median (lowest - highest).", "",
        f"| a save adds to the run, seconds | at one save in {USUAL:g} s, % of the run |", "|---|---|",
        f"| {spread(costs, 2)} | {spread([100 * cost / USUAL for cost in costs], 1)} |",
    ]) + "\n"  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
