"""A few rows of a split, and the padded batches that an exported model takes of them."""

from collections.abc import Callable, Iterator

import numpy as np
import torch

from distsent.batching.batch_plan import collate
from distsent.batching.packing import PackedBatch
from distsent.data.tokens.store import Tokens
from distsent.evaluation.evaluate_split import CPU_TOKENS, batches_of_rank

CPU = torch.device("cpu")
Pad = Callable[[PackedBatch], dict[str, np.ndarray]]


def draw(n: int, most: int | None) -> np.ndarray:
    """At most `most` of n rows, ascending; the same ones each time."""
    if most is None or most >= n:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def subset(tokens: Tokens, rows: np.ndarray) -> Tokens:
    """Rows (n,) of a split as a split, in memory."""
    spans, counts = tokens.window_spans(rows), tokens.counts(rows)
    offsets = np.cumsum([0, *(span.stop - span.start for span in spans)])
    types = None if tokens.types is None else np.concatenate([tokens.types[s] for s in spans])
    return Tokens(
        np.concatenate([tokens.ids[span] for span in spans]), offsets, tokens.labels[rows],
        tokens.rows[rows], 0, types, None if counts is None else np.cumsum([0, *counts]),
    )  # fmt: skip


def different_lengths(tokens: Tokens) -> np.ndarray:
    """The shortest row, the longest, and some between: up to eight of different lengths."""
    lengths, first = np.unique(tokens.lengths(), return_index=True)
    return first[np.unique(np.linspace(0, len(lengths) - 1, 8).round().astype(int))]


def padded(tokens: Tokens, pad: Pad) -> Iterator[dict[str, np.ndarray]]:
    """The inputs of all rows, in batches of similar lengths."""
    for rows in batches_of_rank(tokens.lengths(), 0, 1, CPU_TOKENS):
        yield pad(collate(tokens, rows, None, CPU))
