"""One worker of a calibration:  python -m distsent.planning.worker ORDER.json

`plan` starts as many as would share a machine. All compute their shares of the same steps at once,
so each gets the cores, the memory and the clock rate that it would have in a training.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from distsent import cli
from distsent.batching.batch_plan import Batch, BatchPlan
from distsent.distributed.launchers import init_world
from distsent.distributed.world import World
from distsent.errors import FINISHED
from distsent.job import Job, load_saved_job
from distsent.planning.link import Exchange
from distsent.planning.speed import Share, SharedTimes
from distsent.runtime import device as devices
from distsent.runtime.run_folder import read_json
from distsent.runtime.signals import StopSignal
from distsent.training.build import build_plan, build_step, open_model
from distsent.training.inputs import prepare_store, prepare_tokenizer
from distsent.training.publish import peak_memory, reset_peak_memory
from distsent.training.shared_reducer import shares_weights
from distsent.training.train_step import TrainStep

STEPS = 4  # of each share
BATCHES = 64  # whose tokens an update has had
TIMES = 3  # that each of them is timed
SCALES = 1.0, 0.25, 1 / 16, 1e-5  # of the job's messages; the last one: a few bytes
REPEATS = 15  # of each all-reduce


@dataclass(frozen=True)
class Order:
    """What a calibration measures."""

    job: dict[str, Any]
    sizes: list[int]  # worker counts whose shares are run: the largest count is the smallest share
    messages: list[float]  # bytes of each all-reduce of the job
    seconds: float  # for the shares, and as many for the exchanges
    out: str


def main(arguments: list[str]) -> int:
    order, stop = Order(**read_json(Path(arguments[0]))), StopSignal(grace=0.0)
    job = load_saved_job(order.job, "the job")
    world = init_world(job.run.transport, job.run.interface)
    threads, device = devices.share_cores(world), devices.select_device(world.local_rank)
    tokenizer: Any = world.all_or_raise(lambda: prepare_tokenizer(job), "plan.tokenizer")
    store = prepare_store(job, tokenizer, world, stop, None)
    _, forward, precision = open_model(job, world, job.train.precision, tokenizer, store, device)
    alone = World()  # a world of one process exchanges nothing
    plan = build_plan(job, store, forward, alone, device, precision)
    total = plan.sampler.total_steps(job.train.epochs, job.train.max_steps)
    step = build_step(job, store, forward, alone, device, precision, total)
    tokens = first_tokens(plan)
    step.optimizer.expect(tokens)
    reset_peak_memory()
    shares = list(measure_shares(step, plan, world, order))
    exchanges = [*measure_exchanges(world, order, device)] if world.size > 1 else []
    peak, shared = peak_memory(), None
    if all_share_weights(job, world, device):
        del step  # two at once would take more memory than a training
        step = build_step(job, store, forward, world, device, precision, total)
        step.optimizer.expect(tokens)
        shared = measure_shared(step, plan, world, order) if step.flat.shared else None
    if world.is_main:
        found = {
            "shares": [asdict(share) for share in shares],
            "exchanges": [asdict(exchange) for exchange in exchanges],
            "shared": shared and asdict(shared),
            "peak_memory_bytes": peak,
            "threads": threads,
            "device": devices.arithmetic(device),
            "transport": world.transport,
        }
        Path(order.out).write_text(json.dumps(found), encoding="utf-8")
    world.shutdown()
    return FINISHED


def first_tokens(plan: BatchPlan) -> torch.Tensor:
    """Token ids of a training's first batches: an update takes longer the more there have been."""
    batches = range(min(BATCHES, plan.sampler.steps_per_epoch))
    return torch.cat([plan.batch(number).token_ids for number in batches]).unique()


def all_share_weights(job: Job, world: World, device: torch.device) -> bool:
    """Equal on all workers: if one of them sees no GPU, none waits for the others."""
    types = world.allgather_object(device.type, "plan.devices")
    return shares_weights(job, world, types)


def measure_shares(step: TrainStep, plan: BatchPlan, world: World, order: Order) -> Iterator[Share]:
    """Each share of some steps, several times: the first time does not count.

    A matmul library generates code for each new shape, which a training pays only at first.
    """
    step.forward.model.train()
    began = time.monotonic()
    for size in sorted(order.sizes, reverse=True):
        own = plan.for_worker(world.rank % size, size)
        for number in range(min(STEPS, own.sampler.steps_per_epoch)):
            batch = own.batch(number)
            empty = replace(batch, micro_rows=())
            for timed in (batch, empty):
                seconds(world, step, timed)
                found = [seconds(world, step, timed) for _ in range(TIMES)]
                yield Share(len(timed.micro_rows), work_of(own, timed), median(found))
            elapsed = world.allgather_object(time.monotonic() - began, "plan.elapsed")[0]
            if elapsed > order.seconds:
                return


def work_of(plan: BatchPlan, batch: Batch) -> float:
    """Operations of this worker's share."""
    windows = (plan.tokens.window_lengths(rows) for rows in batch.micro_rows)
    return sum(map(plan.flops.training, windows))


def seconds(world: World, call: Callable[..., object], *args: Any) -> float:
    """All workers begin together, as after the exchange of a training step."""
    world.barrier()
    start = time.perf_counter()
    call(*args)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure_exchanges(world: World, order: Order, device: torch.device) -> Iterator[Exchange]:
    """All-reduces of the job's messages, and of smaller ones, as GradientReducer starts them."""
    began = time.monotonic()
    for scale in SCALES:
        tensors = [
            torch.zeros(max(1, round(scale * bytes_ / 4)), device=device)
            for bytes_ in order.messages
        ]
        exchange(world, tensors)
        found = []
        for _ in range(REPEATS):
            found.append(seconds(world, exchange, world, tensors))
            elapsed = world.allgather_object(time.monotonic() - began, "plan.elapsed")[0]
            if elapsed > order.seconds:
                break
        sizes = tuple(4.0 * tensor.numel() for tensor in tensors)
        yield Exchange(sizes, world.size, median(found))


def measure_shared(step: TrainStep, plan: BatchPlan, world: World, order: Order) -> SharedTimes:
    """Of steps without examples."""
    began = time.monotonic()
    empty = replace(plan.for_worker(world.rank, world.size).batch(0), micro_rows=())
    seconds(world, step, empty)
    exchanges, steps = [], []
    for _ in range(REPEATS):
        exchanges.append(seconds(world, step.reducer.reduce, empty.token_ids))
        steps.append(seconds(world, step, empty))
        elapsed = world.allgather_object(time.monotonic() - began, "plan.elapsed")[0]
        if elapsed > order.seconds:
            break
    exchange = median(exchanges)
    return SharedTimes(exchange, max(0.0, median(steps) - exchange))


def exchange(world: World, tensors: Sequence[torch.Tensor]) -> None:
    started = [world.allreduce_async(tensor, f"plan.{i}") for i, tensor in enumerate(tensors)]
    for handle in started:
        world.wait(handle)


if __name__ == "__main__":
    cli.run(main)
