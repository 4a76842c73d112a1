"""Training speed relative to matmul peak: forward and backward against bare matrix products.

A pass is a training's own: gradients are added to flat memory, to the embedding rows of the batch
only, and in bf16 layers read a copy of the weights.
The peak is measured right after each packed batch: the three products of every linear layer
(output, input gradient, weight gradient) at the batch's own number of tokens, and nothing else,
by the library that computes them fastest.
Both run their shapes once before they are timed, as training does after some steps.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import nn

from benchmarks.arithmetic import executed
from benchmarks.comparison import about
from benchmarks.share import WorkerShare, training_step, worker_share
from benchmarks.table import spread
from benchmarks.workload import Workload
from distsent.batching.packing import PackedBatch
from distsent.distributed.world import World
from distsent.model.light_layers import lighten_layers
from distsent.operators import linear
from distsent.runtime.device import slow_precision
from distsent.training.passes import EachAsItComes
from distsent.training.reducer import GradientReducer

PASSES = 5
SETTINGS = (  # encoder, dataset, precision, global batch
    ("distilbert", "imdb", "float32", 16),
    ("minilm", "imdb", "float32", 32),
    ("minilm", "imdb", "bf16", 32),
    ("minilm", "emotion", "float32", 64),
    ("minilm", "emotion", "bf16", 64),
)


def bare_products(
    layers: list[tuple[int, int]], tokens: int, dtype: torch.dtype
) -> tuple[float, float]:
    """(operations, seconds) of the products of linear layers (inputs, outputs) on `tokens` rows."""
    fast = dtype == torch.float32 and linear.onednn_is_faster()
    operations, seconds = 0.0, 0.0
    for (inputs, outputs), count in {shape: layers.count(shape) for shape in layers}.items():
        x, dy = torch.randn(tokens, inputs, dtype=dtype), torch.randn(tokens, outputs, dtype=dtype)
        weight, bias = torch.randn(outputs, inputs, dtype=dtype), torch.randn(outputs, dtype=dtype)
        for turn in range(count + 1):
            if turn == 1:  # the first pass generates the library's code for the shape
                start = time.thread_time()
            if fast:
                linear.product(x, weight, bias)
                linear.product(dy, weight.t())
                linear.product(dy.t(), x.t())
            else:
                nn.functional.linear(x, weight, bias)
                dy @ weight
                dy.t() @ x
        seconds += time.thread_time() - start
        operations += count * 6.0 * tokens * inputs * outputs
    return operations, seconds


def training_pass(share: WorkerShare, work: Workload) -> Callable[[PackedBatch], None]:
    """Forward and backward as in a training step of one micro-batch, without zeroing."""
    lighten_layers(share.forward.model)
    step = training_step(share, work, partial(GradientReducer, World()))
    passes, half = EachAsItComes(step.run), step.flat.half

    def once(batch: PackedBatch) -> None:
        with nullcontext() if half is None else half.fresh():
            passes(batch, 1.0)
            step.reducer.end_pass(last=True)

    return once


def measure(work: Workload, passes: int = PASSES) -> list[tuple[float, float]]:
    """(FLOP/s of forward and backward, FLOP/s of bare products) per packed batch."""
    share, pairs = worker_share(work), []
    parts = (m for m in share.forward.model.base_model.modules() if isinstance(m, nn.Linear))
    layers = [(m.in_features, m.out_features) for m in parts]
    dtype = torch.bfloat16 if work.precision == "bf16" else torch.float32
    once = training_pass(share, work)
    for i, s in enumerate(share.packed_batches(passes + 1)):
        operations = executed(share.forward, s)
        for _ in range(2):  # the first pass generates the library's code for the batch's shapes
            start = time.thread_time()
            once(s)
            seconds = time.thread_time() - start
        bare_operations, bare_seconds = bare_products(layers, len(s.ids_T), dtype)
        if i:
            pairs.append((operations / seconds, bare_operations / bare_seconds))
        if len(pairs) == passes:
            break
    return pairs


def report() -> str:
    torch.set_num_threads(1)
    lines = [
        "# Forward and backward relative to matmul peak",
        "",
        about(),
        "",
        "One thread, processor time of the thread; one worker's share of a global batch over 2 "
        f"workers, dropout on, {PASSES} packed batches. Median (lowest - highest).",
        "",
        "| encoder, dataset, precision, batch | forward + backward GFLOP/s | bare products GFLOP/s "
        "| ratio |",
        "|---|---|---|---|",
    ]
    for encoder, dataset, precision, batch in SETTINGS:
        setting = f"{encoder}, {dataset}, {precision}"
        if slow_precision(precision, torch.device("cpu")):
            lines.append(f"| {setting}, {batch} | not run: no units for it | | |")
            continue
        pairs = measure(Workload(dataset, encoder, precision, rows=1024, batch_size=batch))
        shares = [a / b for a, b in pairs]
        training, bare = (spread([pair[i] / 1e9 for pair in pairs], 0) for i in (0, 1))
        print(f"{setting}: {statistics.median(shares):.2f}", flush=True)
        lines.append(f"| {setting}, {batch} | {training} | {bare} | {spread(shares, 2)} |")
    return "\n".join(lines) + "\n"
