"""How near training comes to the matrix roof: forward and backward over real streams, against bare products of their shapes.

The roof is measured beside each stream: every linear layer's three products (output, input gradient, weight gradient) at the
stream's own number of tokens, and nothing else. Both have met the shapes before, as training has after some steps.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from benchmarks.arithmetic import executed
from benchmarks.comparison import about
from benchmarks.share import share
from benchmarks.table import spread
from benchmarks.workload import Workload
from distsent.model.forward import autocast

PASSES = 5


def bare(layers: list[tuple[int, int]], tokens: int, dtype: torch.dtype) -> tuple[float, float]:
    """(operations, seconds) of the products of linear layers (inputs, outputs) over `tokens` rows."""
    operations, seconds = 0.0, 0.0
    for (inputs, outputs), count in {shape: layers.count(shape) for shape in layers}.items():
        x, dy = torch.randn(tokens, inputs, dtype=dtype), torch.randn(tokens, outputs, dtype=dtype)
        weight, bias = torch.randn(outputs, inputs, dtype=dtype), torch.randn(outputs, dtype=dtype)
        for turn in range(count + 1):
            if turn == 1:  # the first one makes the library's code for the shape
                began = time.thread_time()
            nn.functional.linear(x, weight, bias)
            dy @ weight
            dy.t() @ x
        seconds += time.thread_time() - began
        operations += count * 6.0 * tokens * inputs * outputs
    return operations, seconds


def measure(work: Workload, passes: int = PASSES) -> list[tuple[float, float]]:
    """(FLOP/s of forward and backward, FLOP/s of bare products), a pair a stream; the first stream warms up."""
    mine, pairs = share(work), []
    stack = mine.forward.model.base_model
    layers = [(m.in_features, m.out_features) for m in stack.modules() if isinstance(m, nn.Linear)]
    dtype = torch.bfloat16 if work.precision == "bf16" else torch.float32
    for i, s in enumerate(mine.streams(passes + 1)):
        operations = executed(mine.forward, s)
        for _ in range(2):  # the first one makes the library's code for the stream's shapes
            mine.forward.model.zero_grad()
            began = time.thread_time()
            with autocast(torch.device("cpu"), work.precision):
                logits = mine.forward(s)
            nn.functional.cross_entropy(logits.float(), s.labels_n, reduction="sum").backward()
            seconds = time.thread_time() - began
        roof, alone = bare(layers, len(s.ids_T), dtype)
        if i:
            pairs.append((operations / seconds, roof / alone))
        if len(pairs) == passes:
            break
    return pairs


def report() -> str:
    torch.set_num_threads(1)
    lines = [
        "# Forward and backward against the matrix roof",
        "",
        about(),
        "",
        "One thread, by its own clock of processor time; a worker's share of a global batch over 2 workers, dropout on, "
        f"{PASSES} streams. Median (lowest - highest).",
        "",
        "| encoder, corpus, precision, batch | forward + backward GFLOP/s | bare products GFLOP/s | ratio |",
        "|---|---|---|---|",
    ]
    for encoder, corpus, precision, batch in (
        ("distilbert", "imdb", "float32", 16), ("minilm", "imdb", "float32", 32), ("minilm", "imdb", "bf16", 32),
        ("minilm", "emotion", "float32", 64), ("minilm", "emotion", "bf16", 64),
    ):  # fmt: skip
        pairs = measure(Workload(corpus, encoder, precision, rows=1024, batch_size=batch))
        cells = (
            spread([a / 1e9 for a, _ in pairs], 0), spread([b / 1e9 for _, b in pairs], 0), spread([a / b for a, b in pairs], 2),
        )  # fmt: skip
        print(
            f"{encoder}, {corpus}, {precision}: {statistics.median(a / b for a, b in pairs):.2f}",
            flush=True,
        )
        lines.append(f"| {encoder}, {corpus}, {precision}, {batch} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
