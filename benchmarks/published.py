"""The model of distsent.plan, given published clusters: its speedups beside theirs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from distsent.batching.batch_plan import BatchPlan
from distsent.batching.flops import FlopCounter
from distsent.batching.sampler import BatchSampler
from distsent.data.tokens.store import Tokens
from distsent.planning.hardware import Hardware, described_hardware, read_hardware
from distsent.planning.link import RING, TREE, Link
from distsent.planning.speed import Speed
from distsent.planning.step_time import step_time
from distsent.planning.work import ModelSize, Work, count_work
from distsent.training.worker_memory import WorkerMemory

FUSED = 64 * 2**20  # bytes of Horovod's fusion buffer then
GB = 1e9
HOROVOD = "Horovod, docs/benchmarks.rst; one P100: TensorFlow's benchmarks, batch 64"
NVIDIA = "NVIDIA DeepLearningExamples, TensorFlow BERT, SQuAD"


NVLINK = Link(10e-6, 120 * GB, algorithm=TREE)
PCIE = Link(5e-6, 10 * GB, algorithm=RING)
ROCE = Link(5e-6, 2.5 * GB, algorithm=RING)  # 25 Gbit/s at 80 %


@dataclass(frozen=True)
class Published:
    """A measured speedup of weak scaling: the batch of a worker stays the same."""

    name: str
    workers: int
    per_machine: int
    examples: int  # of a worker's batch
    alone: float  # examples per second of one worker
    bytes_: float  # exchanged gradients
    speedup: float
    source: str
    within: Link = NVLINK
    between: Link = ROCE


PUBLISHED = (
    Published("Inception V3", 512, 4, 64, 142, 4 * 27.2e6, 0.90 * 512, HOROVOD, PCIE),
    # Not published alone: between ResNet-50 (219) and ResNet-152 (91.8), by the number of layers.
    Published("ResNet-101", 512, 4, 64, 129, 4 * 44.5e6, 0.90 * 512, HOROVOD, PCIE),
    Published("VGG-16", 512, 4, 64, 154, 4 * 138.4e6, 0.68 * 512, HOROVOD, PCIE),
    Published("BERT-large, DGX-2, fp16", 16, 16, 14, 28.28, 2 * 336e6, 14.73, NVIDIA),
    Published("BERT-large, DGX-1, float32", 8, 8, 10, 10.42, 4 * 336e6, 7.62, NVIDIA),
    Published("BERT-large, DGX-1, fp16", 8, 8, 4, 29.74, 2 * 336e6, 6.38, NVIDIA),
)


def predicted(case: Published, hides: bool) -> float:
    """The model's speedup over one worker. `hides`: whether buckets leave during backward."""
    speed = Speed(update=0.0, micro_batch=0.0, flop=1 / case.alone)  # a flop here: an example
    machines = Hardware(
        case.name, {1: speed}, {1: case.within}, case.per_machine, case.between, gpu=True
    )
    whole, rest = divmod(case.bytes_, FUSED)
    messages = (*[float(FUSED)] * int(whole), rest)
    shape = (1, case.workers)
    share = np.ones(shape), np.full(shape, float(case.examples))
    late = 1 if hides else len(messages)
    work = Work(*share, case.examples * case.workers, 0.0, messages, late, 0, 0.0)
    alone = case.examples / case.alone
    return case.workers * alone / step_time(work, machines).seconds


def lognormal_tokens(rows: int, seed: int = 0) -> Tokens:
    """Texts as long as IMDB's reviews: 267 tokens on average, at most 512."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(np.exp(rng.normal(5.55, 0.6, rows)), 16, 512).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = rng.integers(1000, 30000, offsets[-1]).astype(np.uint16)
    return Tokens(ids, offsets, np.zeros(rows, np.int32), np.arange(rows), truncated=0)


def simulated(preset: str, workers: tuple[int, ...], share: int = 16) -> list[str]:
    """BERT-base's sizes, bf16 or fp16, `share` reviews per worker, with batches really assigned."""
    width, layers = 768, 12
    flops = FlopCounter(2.0 * 85e6, 4.0 * (layers - 1) * width)
    size = ModelSize(WorkerMemory(109_500_000, 109_500_000, 0.0, None), 30522 * width, width)
    described = read_hardware(preset)
    precision = described.fastest()
    machines = described_hardware(described, precision, layers, size.trained)
    tokens, lines, first = lognormal_tokens(share * max(workers)), [], 0.0
    for count in workers:
        sampler = BatchSampler(len(tokens), share * count, seed=1)
        plan = BatchPlan(tokens, sampler, flops, 0, 1, 16384, torch.device("cpu"))
        work = count_work(plan, size, count)
        found = step_time(work, machines)
        speed = work.examples / found.seconds
        first = first or speed / count
        mean = machines.speed(count).compute(work.micro_batches_SR, work.flops_SR).mean()
        lines.append(
            f"| {preset}, {precision} | {count:,} | {share * count:,} | {1000 * found.compute:.1f} "
            f"| {found.compute / mean:.3f} | {1000 * found.exchange:.1f} "
            f"| {1000 * found.planning:.1f} | {speed:,.0f} | {speed / first / count:.0%} |"
        )
        print(lines[-1], flush=True)
    return lines


def report() -> list[str]:
    lines = [
        "## Published clusters",
        "",
        "Speedup over one worker, whose batch stays the same. The model knows the speed of one "
        "worker, the bytes of the gradients, and nominal bandwidths at 80 %.",
        "",
        "| system | workers | published | model: backward hides exchange | it does not | source |",
        "|---|---|---|---|---|---|",
    ]
    for case in PUBLISHED:
        speedups = case.speedup, predicted(case, True), predicted(case, False)
        cells = (f"{value:.1f} ({value / case.workers:.0%})" for value in speedups)
        lines.append(f"| {case.name} | {case.workers} | {' | '.join(cells)} | {case.source} |")
        print(lines[-1], flush=True)
    lines += [
        "",
        "## Up to 4,096 workers",
        "",
        "BERT-base on reviews like IMDB's (lognormal lengths, 267 tokens on average), 16 per "
        "worker. Batches are really drawn and assigned; planning is measured here.",
        "",
        "| machines | workers | batch | compute of the slowest, ms | relative to the mean "
        "| exchange, ms | planning, ms | examples/s | efficiency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for preset in ("v100", "a100"):
        lines += simulated(preset, (1, 8, 64, 512, 4096))
    return lines
