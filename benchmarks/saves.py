"""Cost of a checkpoint: the same training with a save every two seconds and without saves, in turn.

The difference of the two times is divided by the number of saves; frequent saves make it stand out
from the noise of a run. The workers read their own wall clock at each step, so waiting, copying,
the writer thread's share of the cores and its effect on the caches all count.
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

ROUNDS, STEPS, WARMUP = 3, 120, 10
EVERY, USUAL = 2.0, 30.0  # seconds between saves: measured, usual
WORK = Workload("emotion", "minilm")


def main(words: list[str]) -> None:
    """One worker: train, then write the time of the steps and the number of saves to out.json."""
    from distsent.distributed.launchers import init_world
    from distsent.job import load_job
    from distsent.runtime.signals import StopSignal
    from distsent.training.loop import Loop
    from distsent.training.session import TrainingRun

    ends: list[float] = []
    count, save, saves = Loop._count, Loop.save, [0]

    def timed_count(self: Loop, *rest: Any) -> None:
        count(self, *rest)
        ends.append(time.perf_counter())

    def counted_save(self: Loop) -> None:
        save(self)
        saves[0] += WARMUP <= len(ends) < STEPS  # not the save after the last step

    Loop._count, Loop.save = timed_count, counted_save  # type: ignore[method-assign]
    world, job = init_world(), load_job(None, words)
    TrainingRun(job, world, StopSignal()).train()
    if world.is_main:
        out = {"seconds": ends[-1] - ends[WARMUP - 1], "saves": saves[0]}
        (Path(job.run.dir) / "out.json").write_text(json.dumps(out))
    world.shutdown()


def train(every: float, dataset: Path, folder: Path) -> dict[str, Any]:
    keys = [
        f"data.source={dataset}", f"data.store={dataset.parent}/stores",
        f"model.name={materials.encoder(WORK.encoder, folder)}",
        f"train.precision={WORK.precision}", f"train.batch_size={WORK.batch_size}",
        f"train.max_steps={STEPS}", "data.max_eval_rows=16", "eval.every=end",
        "log.tensorboard=false", "job.name=run", f"run.dir={folder}",
        f"checkpoint.every_seconds={every}",
    ]  # fmt: skip
    run([*horovodrun(WORK), "benchmarks.saves", *keys], WORK, folder)
    result: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return result


def report() -> str:
    costs, saves = [], 0
    with tempfile.TemporaryDirectory() as scratch:
        dataset = materials.dataset(WORK, Path(scratch) / "dataset")
        for number in range(ROUNDS):
            without = train(1e6, dataset, Path(scratch) / f"{number}-without")
            often = train(EVERY, dataset, Path(scratch) / f"{number}-often")
            costs.append((often["seconds"] - without["seconds"]) / often["saves"])
            saves += often["saves"]
            print(
                f"round {number}: {without['seconds']:.1f} s, "
                f"with {often['saves']} saves {often['seconds']:.1f} s",
                flush=True,
            )
    percent = spread([100 * cost / USUAL for cost in costs], 1)
    lines = [
        "# Cost of a checkpoint",
        "",
        about(),
        "",
        f"Emotion, MiniLM, bf16, 2 workers x 1 thread, {STEPS - WARMUP} steps of "
        f"{WORK.batch_size}, with a save every {EVERY:g} s and without, {ROUNDS} times in "
        f"turn, {saves} saves of 273 MB in total. Wall time of the training path, everything "
        "included. Median (lowest - highest).",
        "",
        f"| seconds that a save adds to the run | % of the run at one save per {USUAL:g} s |",
        "|---|---|",
        f"| {spread(costs, 2)} | {percent} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
