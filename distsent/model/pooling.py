"""Which hidden states of a packed batch the head reads: a row for each example.

Letters: batching/packing.py; m rows, W the width of the encoder.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distsent.batching.packing import PackedBatch


@dataclass(frozen=True)
class Pooling:
    """What the head reads of each example, and what becomes of its logits."""

    rows: Callable[[Tensor, PackedBatch, int | None], Tensor]  # hidden [T, W], padding id -> [m, W]
    logits: Callable[[Tensor, PackedBatch], Tensor]  # [m, C] -> [n, C]


def last_token_n(batch: PackedBatch, pad: int | None) -> Tensor:
    """The last token of each example that is not `pad`, or its first one: heads of decoders.

    Texts that end with the padding token are scored as transformers does.
    """
    if pad is None:
        return batch.cu_seqlens[1:].long() - 1
    index = torch.arange(batch.tokens, device=batch.ids_T.device)
    index[batch.ids_T[: batch.tokens] == pad] = -1
    last = torch.segment_reduce(index.double(), "max", lengths=batch.lengths_n)
    return torch.maximum(last.long(), batch.cls_index_n)


def mean_per_example(x_T: Tensor, batch: PackedBatch) -> Tensor:
    """The mean over each example's tokens, summed in their order, at least in float32."""
    wide = x_T[: batch.tokens].to(torch.promote_types(x_T.dtype, torch.float32))
    return torch.segment_reduce(wide, "mean", lengths=batch.lengths_n, axis=0).to(x_T.dtype)


def _first(x: Tensor, batch: PackedBatch, pad: int | None) -> Tensor:
    return x if len(x) == batch.sequences else x[batch.cls_index_n]


def _last(x: Tensor, batch: PackedBatch, pad: int | None) -> Tensor:
    return x[last_token_n(batch, pad)]


def _mean(x: Tensor, batch: PackedBatch, pad: int | None) -> Tensor:
    return mean_per_example(x, batch)


def _each(x: Tensor, batch: PackedBatch, pad: int | None) -> Tensor:
    return x[: batch.tokens]


def _as_they_are(logits: Tensor, batch: PackedBatch) -> Tensor:
    return logits


FIRST = Pooling(_first, _as_they_are)
LAST = Pooling(_last, _as_they_are)
MEAN = Pooling(_mean, _as_they_are)
MEAN_OF_LOGITS = Pooling(_each, mean_per_example)
POOLINGS = FIRST, LAST, MEAN, MEAN_OF_LOGITS
