"""Both transports, and ways to all-reduce gradients, within one machine and over 10 Gbit/s.

    python -m benchmarks exchange

Each way trains its own copy of one model over the same batches, one step of each in turn, in the
same two processes: distsent's buckets after backward and during it, within one machine distsent's
one copy of the weights, and Horovod's own wrapped optimizer. After that, each exchange is timed
alone, and each step without examples: gradients zeroed and exchanged, weights updated. Over 10
Gbit/s, the workers run in a network namespace whose `lo` is limited by `tc`, for both directions
together; that needs root.
"""

from __future__ import annotations

import json
import statistics
import subprocess
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
from benchmarks.launch import PYTHON, horovodrun, run
from benchmarks.share import training_step, worker_share
from benchmarks.workload import Workload
from distsent.runtime.device import faster_precision

EXCHANGES = 20  # timed alone
EMOTION = Workload("emotion", "minilm", steps=30, warmup=5)
WORKS = (
    EMOTION,
    replace(EMOTION, encoder="distilbert"),
    Workload("imdb", "minilm", rows=2048, steps=9, warmup=2, batch_size=32),
)
# What connects the workers: transport, and Horovod's fusion threshold in bytes
HOROVOD, FUSED, TORCH = ("horovod", "0"), ("horovod", str(128 * 2**20)), ("torch", "0")
NAMES = {HOROVOD: "Horovod over MPI", FUSED: "Horovod over MPI, fused", TORCH: "torch over Gloo"}
AFTER, DURING = "own buckets, after backward", "own buckets, while backward runs"
SHARED = "one copy of the weights"
WRAPPED = "Horovod's wrapped optimizer"
HERE, SLOW = "one machine", "10 Gbit/s"
# Not horovodrun: it selects transports of its own, and within one machine shared memory.
TCP = [
    *("mpirun", "--mca", "pml", "ob1", "--mca", "btl", "self,tcp"),
    *("--mca", "btl_tcp_if_include", "lo", "--bind-to", "none", "--allow-run-as-root", "-np"),
]
LIMITED = [
    *("unshare", "--net", "sh", "-c"),
    "ip link set lo up && tc qdisc add dev lo root tbf rate 10gbit burst 1mb limit 50mb && "
    'exec "$@"',
    "sh",
]


def own_buckets(overlaps: bool, world: Any, flat: Any) -> Any:
    """distsent's reducer; with `overlaps`, buckets leave during backward, as between machines."""
    from distsent.training.reducer import GradientReducer

    with patch("distsent.training.reducer.overlaps_backward", lambda *_: overlaps):
        return GradientReducer(world, flat)


def one_copy(precision: str, world: Any, flat: Any) -> Any:
    """distsent's reducer for workers of one machine."""
    from distsent.training.half_weights import DTYPES
    from distsent.training.shared_reducer import SharedReducer

    return SharedReducer(world, flat, DTYPES.get(precision))


class WrappedOptimizer:
    """`hvd.DistributedOptimizer`, which sums each parameter's complete gradient when ready."""

    def __init__(self, world: Any, flat: Any) -> None:
        import horovod.torch as hvd

        from distsent.training.reducer import GradientReducer

        self.world, self._flat = world, flat
        self._own = GradientReducer(world, flat, overlap=False)  # for the norm
        self.part, self.transport, self.workers = self._own.part, "", world.size
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
    def end_pass(self, last: bool) -> None: ...
    def finish(self) -> None: ...

    def norms(self, token_ids: torch.Tensor) -> tuple[float, float]:
        return self._own.norms(token_ids)

    def reduce(self, token_ids: torch.Tensor) -> None:
        self.world.allreduce(self._flat.control_slots, "control_slots")
        self._optimizer.synchronize()


def all_ways(precision: str) -> dict[str, Callable[[Any, Any], Any]]:
    return {
        AFTER: partial(own_buckets, False),
        DURING: partial(own_buckets, True),
        SHARED: partial(one_copy, precision),
        WRAPPED: WrappedOptimizer,
    }


def main(out: Path, fields: dict[str, Any], link: str) -> None:
    """One worker: write the seconds of each step and of each exchange of each way."""
    from distsent.distributed.launchers import init_world

    world, work = init_world(), Workload(**fields)
    torch.set_num_threads(work.threads)
    horovod = world.transport.startswith("Horovod")
    left_out = {name for name, has in ((WRAPPED, horovod), (SHARED, link == HERE)) if not has}
    found = all_ways(work.precision)
    ways = {name: way for name, way in found.items() if name not in left_out}
    shares = {name: worker_share(work, world.rank) for name in ways}
    steps = {
        name: training_step(shares[name], work, partial(reducer, world))
        for name, reducer in ways.items()
    }
    if WRAPPED in steps:  # its hooks do not see 16-bit gradients: autocast converts them
        steps[WRAPPED].flat.half = None

    def seconds(timed: Callable[[], object]) -> float:
        world.barrier()
        start = time.perf_counter()
        timed()
        return time.perf_counter() - start

    whole: dict[str, list[float]] = {name: [] for name in steps}
    alone: dict[str, list[float]] = {name: [] for name in steps}
    empty: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(work.steps):
        batch = shares[AFTER].plan.batch(number)
        for name, step in steps.items():
            whole[name].append(seconds(partial(step, batch)))
    weights = [step.flat.values for step in steps.values()]
    distances = [float((values - weights[0]).abs().max()) for values in weights]
    for _ in range(EXCHANGES):
        for name, step in steps.items():
            alone[name].append(seconds(partial(step.reducer.reduce, batch.token_ids)))
        for name, step in steps.items():
            empty[name].append(seconds(partial(step, replace(batch, micro_rows=()))))
    if world.is_main:
        sent = [step.reducer.sent for step in steps.values()]
        result = {"steps": whole, "exchanges": alone, "updates": empty}
        out.write_text(json.dumps(result | {"distances": distances, "sent": sent}))
    world.shutdown()


def launcher(work: Workload, transport: str, link: str) -> list[str]:
    """The command that starts the workers, up to the name of a module."""
    if transport == "torch":
        words = [*PYTHON, "distsent.launch", f"--nproc-per-node={work.workers}", "-m"]
    else:
        words = horovodrun(work) if link == HERE else [*TCP, str(work.workers), *PYTHON]
    return words if link == HERE else [*LIMITED, *words]


def run_workers(work: Workload, over: tuple[str, str], link: str, folder: Path) -> dict[str, Any]:
    """Raises RuntimeError with the last error line of a failure."""
    work = replace(
        work,
        dataset=str(materials.dataset(work, folder / "dataset")),
        encoder=str(materials.encoder(work.encoder, folder / "encoder")),
    )
    out, (transport, fusion) = folder / "out.json", over
    words = [*launcher(work, transport, link), "benchmarks.exchange"]
    with patch.dict("os.environ", HOROVOD_FUSION_THRESHOLD=fusion):
        run([*words, str(out), json.dumps(asdict(work)), link], work, folder)
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def rows(work: Workload, link: str) -> list[str]:
    """A line of the table for each transport and way. The first one is what all are compared to."""
    lines, first = [], 0.0
    for over, name in NAMES.items():
        if over == FUSED and work.dataset != "emotion":
            continue
        with tempfile.TemporaryDirectory() as scratch:
            found = run_workers(work, over, link, Path(scratch))
        for i, way in enumerate(found["steps"]):
            steps = found["steps"][way][work.warmup :]
            low, middle, high = (1000 * q for q in statistics.quantiles(steps, n=4))
            exchange = 1000 * statistics.median(found["exchanges"][way])
            update = 1000 * statistics.median(found["updates"][way])
            first = first or middle
            lines.append(
                f"| {work.dataset} | {work.encoder} | {link} | {name} | {way} | {exchange:.0f} "
                f"| {update:.0f} | {middle:.0f} ({low:.0f} - {high:.0f}) | {middle / first:.2f} "
                f"| {found['sent'][i] / 1e6:.1f} MB | {found['distances'][i]:.0e} |"
            )
            print(lines[-1], flush=True)
    return lines


def report() -> str:
    precision = faster_precision(torch.device("cpu"))
    lines = [
        "# Both transports, and ways to all-reduce gradients",
        "",
        about(),
        "",
        f"Emotion in batches of 64, IMDB in batches of 32; {precision}, 2 workers x 1 thread. "
        f"Medians of {EXCHANGES} exchanges alone, and of complete steps (quartiles), which take "
        "turns way by way in the same processes; the transports run one after the other. One "
        "machine: Horovod uses shared memory, torch TCP over `lo`. 10 Gbit/s: TCP over a `lo` that "
        "`tc` limits, for both directions together.",
        "",
        "| dataset | encoder | link | transport | way | ms per exchange "
        "| ms per step without examples | ms per step "
        "| step relative to the first way | sent per worker "
        "| weights: largest difference from the transport's first way |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    trial = subprocess.run([*LIMITED, "true"], capture_output=True, text=True)
    for work in (replace(work, precision=precision) for work in WORKS):
        lines += rows(work, HERE)
        lines += rows(work, SLOW) if trial.returncode == 0 else []
    if trial.returncode:
        lines += ["", f"10 Gbit/s: not measured here: {trial.stderr.strip()}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3])
