"""Counted arithmetic: what the matrix products of training steps execute, over what their examples need.

Needed: the same model over each example alone, where nothing can be padded. Useful: what reaches the head from real tokens, by
formula (distsent/batching/flops.py).
"""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.comparison import about
from benchmarks.share import Share, share
from benchmarks.workload import Workload as Asked
from distsent.batching.flops import FlopCounter
from distsent.batching.packing import PackedBatch, pack
from distsent.model.forward import Forward

STEPS = 3


def executed(forward: Forward, s: PackedBatch) -> int:
    """Floating-point operations of the matrix products of one forward and backward pass."""
    counter = FlopCounterMode(display=False)
    with counter:
        forward(s).sum().backward()
    return counter.get_total_flops()


def needed(forward: Forward, s: PackedBatch) -> int:
    return sum(executed(forward, part) for part in apart(s))


def apart(s: PackedBatch) -> list[PackedBatch]:
    """Each example of a stream as a stream of its own."""
    cuts = np.cumsum(s.lengths)[:-1]
    keys = s.keys_T[: s.tokens].split(s.lengths) if s.keys_T is not None else [None] * len(s)
    ids, labels = np.split(s.ids_T[: s.tokens].numpy(), cuts), s.labels_n.numpy()
    return [pack([ids[i]], labels[i : i + 1], keys_T=keys[i], even=False) for i in range(len(s))]


def ratios(mine: Share, steps: int = STEPS) -> dict[str, float]:
    """Over a worker's first steps."""
    streams = list(mine.streams(steps))
    counted, least = (
        sum(executed(mine.forward, s) for s in streams),
        sum(needed(mine.forward, s) for s in streams),
    )
    useful = sum(mine.plan.work.training(np.array(s.lengths)) for s in streams)
    return {"executed / needed": counted / least, "executed / useful": counted / useful}


def whole_layers(mine: Share) -> FlopCounter:
    """A padded model's last layer is computed for all tokens, too."""
    own, width = mine.plan.work, mine.forward.model.config.hidden_size
    return FlopCounter(own.per_token - 4.0 * width + own.per_example, own.per_pair + 4.0 * width)


def padded_ratio(work: Asked, mine: Share, pad: int | None = None, steps: int = STEPS) -> float:
    """Executed over useful where each worker's rows, dealt in order, are padded to their longest (or to `pad`): by formula."""
    part, counted, useful, whole = work.batch_size // work.workers, 0.0, 0.0, whole_layers(mine)
    for step in range(steps):
        lengths = mine.tokens.lengths(mine.plan.order.batch(step))
        useful += mine.plan.work.training(lengths)
        for start in range(0, len(lengths), part):
            rows = lengths[start : start + part]
            counted += whole.training(np.full(len(rows), pad or rows.max()))
    return counted / useful


def report() -> str:
    lines = [
        "# Counted arithmetic of training steps",
        "",
        about(),
        "",
        f"Matrix products of forward and backward, counted by torch over {STEPS} steps of one of 2 workers; padding by formula, "
        "over 100 steps. No clock is involved.",
        "",
        "| corpus, global batch | distsent: executed / needed | distsent: executed / useful | dynamic padding / useful | "
        "padded to 128 or 512 / useful |",
        "|---|---|---|---|---|",
    ]
    for work in (Asked("emotion", "minilm"), Asked("imdb", "minilm", rows=1024, batch_size=32)):
        torch.manual_seed(0)
        mine = share(work)
        found, pad = ratios(mine), 128 if work.corpus == "emotion" else 512
        cells = [
            *found.values(),
            padded_ratio(work, mine, steps=100),
            padded_ratio(work, mine, pad, steps=100),
        ]
        lines.append(
            f"| {work.corpus}, {work.batch_size} | {' | '.join(f'{cell:.3f}' for cell in cells)} |"
        )
    return "\n".join(lines) + "\n"
