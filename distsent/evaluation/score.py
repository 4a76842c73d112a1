"""Scoring rows: every row once, longest batches first, dealt to the workers by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from distsent.batching.balance import split_by_tokens
from distsent.evaluation.metrics import Counts

CPU_TOKENS = 2048  # more at once leave a core's cache between two layers: 8,192 or 32,768 scored short texts 15 % slower


def batch_tokens_for(device: torch.device, batch_tokens: int) -> int:
    """Tokens that a worker scores at once where it may hold `batch_tokens`."""
    return min(batch_tokens, CPU_TOKENS) if device.type == "cpu" else batch_tokens


def rows_of_rank(lengths: np.ndarray, rank: int, size: int) -> np.ndarray:
    """The rows that worker `rank` of `size` scores: each `size`-th in order of length, so that all finish together."""
    return np.argsort(lengths, kind="stable")[::-1][rank::size]


def batches_of_rank(
    lengths: np.ndarray, rank: int, size: int, batch_tokens: int
) -> list[np.ndarray]:
    """This worker's rows in batches of at most `batch_tokens` tokens, each batch shortest first."""
    mine = rows_of_rank(lengths, rank, size)
    return (
        [part[::-1] for part in split_by_tokens(mine, lengths, batch_tokens)] if len(mine) else []
    )


def score_batches(
    logits_of: Callable[[np.ndarray], torch.Tensor],
    labels: np.ndarray,
    work: Sequence[np.ndarray],
    classes: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, Counts]]:
    """Run the batches `work`; yields (rows, logits [n, C] float32, the counts so far) after each."""
    counts = Counts(classes)
    for rows in work:
        logits_nC = logits_of(rows).float().cpu()
        truth = torch.from_numpy(np.ascontiguousarray(labels[rows], dtype=np.int64))
        losses = F.cross_entropy(logits_nC, truth, reduction="none")
        counts.add(truth.numpy(), logits_nC.argmax(-1).numpy(), losses.numpy())
        yield rows, logits_nC.numpy(), counts
