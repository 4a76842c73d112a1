"""Ways to all-reduce gradients: distsent's buckets after or during backward, Horovod's wrapper.

Each way trains its own copy of one model over the same batches, one step of each in turn, in the
same two processes: first with one message per bucket, as distsent runs Horovod, then with Horovod's
own fusion, then over torch's transport. LINK="10 Gbit/s" (any words) keeps MPI from using shared
memory, and the table shows it as the link: set the rate of `lo` with `tc` first, in a network
namespace of its own.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import materials
from benchmarks.comparison import about
from benchmarks.launch import PYTHON, horovodrun, run, torchrun
from benchmarks.share import worker_share
from benchmarks.workload import Workload

STEPS, WARMUP = 45, 5
WORK = Workload("emotion", "minilm", steps=STEPS)
LINK = os.environ.get("LINK", "shared memory")  # anything else: TCP over lo
# What connects the workers, and Horovod's fusion threshold
TRANSPORTS = {
    "Horovod, one message a bucket": ("horovod", "0"),
    "Horovod's fusion": ("horovod", str(128 * 2**20)),
    "torch over Gloo, one message a bucket": ("torch", "0"),
}
AFTER, DURING = "own buckets, after backward", "own buckets, while backward runs"
WRAPPED = "Horovod's wrapped optimizer"
# Not horovodrun: it selects transports of its own.
TCP = [
    *("mpirun", "--mca", "pml", "ob1", "--mca", "btl", "self,tcp"),
    *("--mca", "btl_tcp_if_include", "lo", "--bind-to", "none", "--allow-run-as-root", "-np"),
]


def own_buckets(overlaps: bool, world: Any, flat: Any) -> Any:
    """distsent's reducer; with `overlaps`, buckets leave during backward, as between machines."""
    from distsent.training.reducer import GradientReducer

    with patch("distsent.training.reducer.overlaps_backward", lambda *_: overlaps):
        return GradientReducer(world, flat)


class WrappedOptimizer:
    """`hvd.DistributedOptimizer`, which sums each parameter's complete gradient when ready."""

    def __init__(self, world: Any, flat: Any) -> None:
        import horovod.torch as hvd

        self.world, self._flat = world, flat
        self.sent = 4 * (flat.size + len(flat.control_slots))
        parameters = [p for _, p in flat.named]
        views = [p.grad for p in parameters]
        optimizer = torch.optim.SGD(parameters)
        self._optimizer = hvd.DistributedOptimizer(
            optimizer, named_parameters=flat.named, op=hvd.Sum
        )
        for p, view in zip(parameters, views, strict=True):
            p.grad = view  # Horovod has replaced them

    def arm(self) -> None: ...

    def shared(self, norm: float) -> float:
        return norm

    def reduce(self, token_ids: torch.Tensor) -> None:
        self.world.allreduce(self._flat.control_slots, "control_slots")
        self._optimizer.synchronize()


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    AFTER: partial(own_buckets, False),
    DURING: partial(own_buckets, True),
    WRAPPED: WrappedOptimizer,
}


def main(out: Path, fields: dict[str, Any]) -> None:
    """One worker: write the seconds of each step of each way."""
    from distsent.distributed.launchers import init_world
    from distsent.evaluation.tasks.single_label import SingleLabel
    from distsent.job import load_job
    from distsent.model import classifier
    from distsent.training.flat_parameters import FlatParameters
    from distsent.training.optimizer import Schedule
    from distsent.training.train_step import TrainingLoss, TrainStep

    world, work = init_world(), Workload(**fields)
    torch.set_num_threads(work.threads)
    job = load_job(None, ["data.source=none", "model.name=none"])
    steps: dict[str, TrainStep] = {}
    horovod = world.transport.startswith("Horovod")
    ways = {name: way for name, way in WAYS.items() if horovod or name != WRAPPED}
    for name, reducer in ways.items():
        share = worker_share(work, world.rank)
        model = share.forward.model
        flat = FlatParameters(model, classifier.token_embedding(model))
        schedule = Schedule.from_job(job.optim, work.steps)
        task = SingleLabel(tuple(classifier.class_names(model.config)))
        loss = TrainingLoss(task, job.train.label_smoothing)
        steps[name] = TrainStep(
            share.forward, flat, reducer(world, flat), job.optim, schedule,
            loss, work.precision,
        )  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(work.steps):
        batch = share.plan.batch(number)
        for name, step in steps.items():
            world.barrier()
            start = time.perf_counter()
            step(batch)
            seconds[name].append(time.perf_counter() - start)
    if world.is_main:
        weights = [step.flat.values for step in steps.values()]
        distances = [float((values - weights[0]).abs().max()) for values in weights]
        sent = [step.reducer.sent for step in steps.values()]
        out.write_text(json.dumps({"seconds": seconds, "distances": distances, "sent": sent}))
    world.shutdown()


def run_workers(work: Workload, transport: str, fusion: str, folder: Path) -> dict[str, Any]:
    """Raises RuntimeError with the last error line of a failure."""
    work = replace(
        work,
        dataset=str(materials.dataset(work, folder / "dataset")),
        encoder=str(materials.encoder(work.encoder, folder / "encoder")),
    )
    tcp = [*TCP, str(work.workers), *PYTHON]
    launcher = horovodrun(work) if LINK == "shared memory" else tcp
    if transport == "torch":
        launcher = torchrun(work)
    out = folder / "out.json"
    command = [*launcher, "benchmarks.exchange", str(out), json.dumps(asdict(work))]
    with patch.dict(os.environ, HOROVOD_FUSION_THRESHOLD=fusion):
        run(command, work, folder)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def report() -> str:
    lines = [
        "# Ways to all-reduce gradients",
        "",
        about(),
        "",
        f"Emotion in batches of 64, bf16, 2 workers x 1 thread; {STEPS - WARMUP} steps of each way "
        "in turn, in the same processes. Milliseconds of a complete step, median (quartiles); "
        f"ratios are taken step by step. Link: {LINK}.",
        "",
        "| encoder | messages | way | ms per step | relative to the first way | sent per worker "
        "| weights: largest difference from the first way |",
        "|---|---|---|---|---|---|---|",
    ]
    for encoder in ("minilm", "distilbert"):
        for messages, (transport, fusion) in TRANSPORTS.items():
            with tempfile.TemporaryDirectory() as scratch:
                found = run_workers(
                    replace(WORK, encoder=encoder), transport, fusion, Path(scratch)
                )
            timed = {name: each[WARMUP:] for name, each in found["seconds"].items()}
            for name, distance, sent in zip(timed, found["distances"], found["sent"], strict=True):
                pairs = zip(timed[name], timed[AFTER], strict=True)
                ratio = statistics.median(a / b for a, b in pairs)
                low, middle, high = (1000 * q for q in statistics.quantiles(timed[name], n=4))
                lines.append(
                    f"| {encoder} | {messages} | {name} | {middle:.0f} ({low:.0f} - {high:.0f}) "
                    f"| {ratio:.2f} | {sent / 1e6:.1f} MB | {distance:.0e} |"
                )
                print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
