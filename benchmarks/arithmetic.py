"""Arithmetic of training steps: matmul FLOPs executed, relative to what the examples need.

Needed: the same model on each example alone, where no padding is possible. Useful: the arithmetic
that reaches the head from real tokens, by formula (distsent/model/flops.py).
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.comparison import about
from benchmarks.share import WorkerShare, worker_share
from benchmarks.workload import Workload
from distsent.batching.flops import FlopCounter
from distsent.batching.packing import PackedBatch, pack
from distsent.model.flops import counting
from distsent.model.forward import Forward

STEPS = 3
FORMULA_STEPS = 100


def executed(forward: Forward, s: PackedBatch) -> int:
    """Floating-point operations of the matrix products of one forward and backward pass."""
    with counting() as counter:
        forward(s).sum().backward()
    return counter.get_total_flops()


def needed(forward: Forward, s: PackedBatch) -> int:
    return sum(executed(forward, example) for example in split_examples(s))


def split_examples(s: PackedBatch) -> list[PackedBatch]:
    """Each example of a packed batch as a packed batch of its own."""
    cuts = np.cumsum(s.lengths)[:-1]
    keys = s.keys_T[: s.tokens].split(s.lengths) if s.keys_T is not None else [None] * s.sequences
    ids, labels = np.split(s.ids_T[: s.tokens].numpy(), cuts), s.labels_n.numpy()
    return [
        pack([ids[i]], labels[i : i + 1], keys_T=keys[i], round_shapes=False)
        for i in range(s.sequences)
    ]


def ratios(share: WorkerShare, steps: int = STEPS) -> dict[str, float]:
    """Over a worker's first steps."""
    batches = list(share.packed_batches(steps))
    total = sum(executed(share.forward, s) for s in batches)
    least = sum(needed(share.forward, s) for s in batches)
    useful = sum(share.plan.flops.training(np.array(s.lengths)) for s in batches)
    return {"executed / needed": total / least, "executed / useful": total / useful}


def all_layers_complete(share: WorkerShare) -> FlopCounter:
    """FLOPs of a padded model, which computes its last layer for all tokens, too."""
    own, width = share.plan.flops, share.forward.model.config.hidden_size
    return FlopCounter(own.per_token - 4.0 * width + own.per_example, own.per_pair + 4.0 * width)


def padded_ratio(
    work: Workload, share: WorkerShare, pad: int | None = None, steps: int = STEPS
) -> float:
    """Executed / useful, by formula, if each worker takes its rows in order and pads them.

    `pad`: the length to pad to; None pads to the longest row of the worker's batch.
    """
    part, total, useful = work.batch_size // work.workers, 0.0, 0.0
    counter = all_layers_complete(share)
    for step in range(steps):
        lengths = share.tokens.lengths(share.plan.sampler.batch(step))
        useful += share.plan.flops.training(lengths)
        for start in range(0, len(lengths), part):
            rows = lengths[start : start + part]
            total += counter.training(np.full(len(rows), pad or rows.max()))
    return total / useful


def report() -> str:
    lines = [
        "# Arithmetic of training steps",
        "",
        about(),
        "",
        f"Matrix products of forward and backward, counted by torch over {STEPS} steps of one of 2 "
        f"workers; padding by formula, over {FORMULA_STEPS} steps. Nothing is timed.",
        "",
        "| dataset, global batch | distsent: executed / needed | distsent: executed / useful "
        "| dynamic padding / useful | padded to 128 or 512 / useful |",
        "|---|---|---|---|---|",
    ]
    for work, pad in (
        (Workload("emotion", "minilm"), 128),
        (Workload("imdb", "minilm", rows=1024, batch_size=32), 512),
    ):
        torch.manual_seed(0)
        share = worker_share(work)
        found = [
            *ratios(share).values(),
            padded_ratio(work, share, steps=FORMULA_STEPS),
            padded_ratio(work, share, pad, steps=FORMULA_STEPS),
        ]
        cells = " | ".join(f"{value:.3f}" for value in found)
        lines.append(f"| {work.dataset}, {work.batch_size} | {cells} |")
    return "\n".join(lines) + "\n"
