"""How gradients are best exchanged: distsent's own buckets after backward, the same while it runs, and Horovod's wrapped optimizer.

Each way trains a copy of its own of the same model over the same batches, one step of each in turn, in the same two processes; once
with one message a bucket, as distsent runs Horovod, and once with Horovod's own fusion. LINK="10 Gbit/s" (any
words) keeps MPI from shared memory, and names in the table what `tc` made of `lo`: a network namespace of its own will do.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, horovodrun, run
from benchmarks.share import share
from benchmarks.workload import Workload

STEPS, WARM = 45, 5
WORK = Workload("emotion", "minilm", steps=STEPS)
LINK = os.environ.get(
    "LINK", "shared memory"
)  # anything else: TCP over lo, and the table says what was set there
FUSION = {"one message a bucket": "0", "Horovod's fusion": str(128 * 2**20)}
WAYS = AFTER, EARLY, WRAPPED = (
    "own buckets, after backward",
    "own buckets, while backward runs",
    "Horovod's wrapped optimizer",
)


def own(early: bool, world: Any, flat: Any) -> Any:
    """distsent's exchange as within one machine, or `early` as between machines."""
    from distsent.training.reducer import GradientReducer

    with patch("distsent.training.reducer.early", lambda *_: early):
        return GradientReducer(world, flat)


class Wrapped:
    """`hvd.DistributedOptimizer`, which sums each parameter's whole gradient as soon as it is there."""

    def __init__(self, world: Any, flat: Any) -> None:
        import horovod.torch as hvd

        self._world, self._flat, self.sent = world, flat, 4 * (flat.size + len(flat.control_slots))
        parameters = [p for _, p in flat.named]
        views = [p.grad for p in parameters]
        self._optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(parameters), named_parameters=flat.named, op=hvd.Sum
        )
        for p, view in zip(parameters, views, strict=True):
            p.grad = view  # Horovod has put others in their place

    def expect(self) -> None: ...

    def sum(self, rows: torch.Tensor) -> None:
        self._world.allreduce(self._flat.control_slots, "control_slots")
        self._optimizer.synchronize()


def main(out: Path, fields: dict[str, Any]) -> None:
    """A worker: the seconds of each step of each way."""
    from distsent.distributed import world
    from distsent.job import load_job
    from distsent.model import classifier
    from distsent.training.flat_parameters import FlatParameters
    from distsent.training.train_step import TrainStep

    world, work = world.start(), Workload(**fields)
    torch.set_num_threads(work.threads)
    asked = load_job(None, ["data.source=none", "model.name=none"])
    ways: dict[str, TrainStep] = {}
    for name in WAYS:
        mine = share(work, world.rank)
        flat = FlatParameters(mine.forward.model, classifier.token_embedding(mine.forward.model))
        exchange: Any = {AFTER: partial(own, False), EARLY: partial(own, True), WRAPPED: Wrapped}[
            name
        ](world, flat)
        ways[name] = TrainStep(
            mine.forward,
            flat,
            exchange,
            mine.plan,
            asked.train,
            asked.optim,
            work.precision,
            work.seed,
            work.steps,
            None,
        )
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for step in range(work.steps):
        batch = mine.plan.batch(step)
        for name, update in ways.items():
            world.barrier()
            began = time.perf_counter()
            update(batch)
            seconds[name].append(time.perf_counter() - began)
    if world.is_main:
        ends = [update.flat.values for update in ways.values()]
        apart = [float((end - ends[0]).abs().max()) for end in ends]
        sent = [update.exchange.sent for update in ways.values()]
        out.write_text(json.dumps({"seconds": seconds, "apart": apart, "sent": sent}))
    world.shutdown()


def launcher(work: Workload) -> list[str]:
    if LINK == "shared memory":
        return horovodrun(work)
    # not horovodrun: it names transports of its own
    tcp = "--mca pml ob1 --mca btl self,tcp --mca btl_tcp_if_include lo --bind-to none --allow-run-as-root"
    return ["mpirun", "-np", str(work.workers), *tcp.split(), *PYTHON]


def once(work: Workload, fusion: str, folder: Path) -> dict[str, Any]:
    """Raises RuntimeError with the last line of a failure."""
    corpus = materials.corpus(work, folder / "corpus")
    asked = replace(
        work, corpus=str(corpus), encoder=str(materials.encoder(work.encoder, folder / "encoder"))
    )
    out = folder / "out.json"
    with patch.dict(os.environ, HOROVOD_FUSION_THRESHOLD=fusion):
        run(
            [*launcher(work), "benchmarks.exchange", str(out), json.dumps(asdict(asked))],
            work,
            folder,
        )
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def report() -> str:
    lines = [
        "# Ways to exchange gradients", "",
        about(), "",
        f"Emotion in batches of 64, bf16, 2 workers x 1 thread; {STEPS - WARM} steps of each way in turn, in the same processes. "
        "Milliseconds of a whole step, median (quartiles); ratios are taken step by step. Link: "
        f"{LINK}.", "",
        "| encoder | messages | way | a step, ms | over the first way's | sent by a worker | weights apart from the first |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for encoder in ("minilm", "distilbert"):
        for messages, fusion in FUSION.items():
            with tempfile.TemporaryDirectory() as scratch:
                found = once(replace(WORK, encoder=encoder), fusion, Path(scratch))
            timed = {name: found["seconds"][name][WARM:] for name in WAYS}
            for name, apart, sent in zip(WAYS, found["apart"], found["sent"], strict=True):
                ratio = statistics.median(
                    a / b for a, b in zip(timed[name], timed[WAYS[0]], strict=True)
                )
                low, middle, high = statistics.quantiles(timed[name], n=4)
                ms = f"{1000 * middle:.0f} ({1000 * low:.0f} - {1000 * high:.0f})"
                lines.append(
                    f"| {encoder} | {messages} | {name} | {ms} | {ratio:.2f} | {sent / 1e6:.1f} MB | {apart:.0e} |"
                )
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
