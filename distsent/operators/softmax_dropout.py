"""Softmax of attention scores and dropout of its probabilities, and the backward pass of both.

In plain torch: a part of the reference of attention's operators, which is in model/.

Shapes: scores [m, q, k]: a matrix per example and head; examples of one length group together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distsent.operators import masks

UNLIMITED = 1 << 30
Dropout = tuple[Tensor, int, float]  # keys [m, q] of the queries, site, rate


@dataclass(frozen=True)
class Seen:
    """Which keys the queries of a length group see. Its first query and key: token numbers.

    `first_key` is a multiple of the lanes of a word, four.
    """

    used_g: Tensor  # int64: tokens of each example
    heads: int
    queries: int
    keys: int
    first_query: int = 0
    first_key: int = 0
    before: int = UNLIMITED  # keys that a query sees before its own
    after: int = UNLIMITED

    @cached_property
    def hidden(self) -> Tensor:
        """True where a query does not see a key: [g, 1, q or 1, k]."""
        device = self.used_g.device
        q = torch.arange(self.queries, device=device)[:, None] + self.first_query
        k = torch.arange(self.keys, device=device) + self.first_key
        outside = (k < q - self.before) | (k > q + self.after)
        return (k >= self.used_g[:, None, None, None]) | outside


def softmax_dropout(scores: Tensor, seen: Seen, dropout: Dropout | None) -> Tensor:
    """What dropout leaves of the probabilities (not scaled up)."""
    P = softmax(scores, seen)
    return P if dropout is None else masks.apply_mask(P, _mask(P, seen, dropout))


def softmax(scores: Tensor, seen: Seen) -> Tensor:
    wide = scores.to(_wide(scores.dtype))
    # Not -inf: a query without a token may see no key, and would be NaN.
    per_example = wide.view(len(seen.used_g), -1, *scores.shape[1:])
    per_example.masked_fill_(seen.hidden, torch.finfo(wide.dtype).min)
    return torch.softmax(wide, dim=-1).to(scores.dtype)


def softmax_dropout_backward(
    P: Tensor, gradient: Tensor, seen: Seen, dropout: Dropout | None
) -> tuple[Tensor, Tensor]:
    """The gradient of the scores, and once more what dropout leaves of P.

    `gradient`: of what dropout left. Recomputing that saves a third of attention's memory.
    """
    dropped = P
    if dropout is not None:
        mask = _mask(P, seen, dropout)
        dropped, gradient = (masks.apply_mask(x, mask) for x in (P, gradient))
    wide = _wide(P.dtype)
    backward = torch.ops.aten._softmax_backward_data
    return backward(gradient.to(wide), P.to(wide), -1, wide).to(P.dtype), dropped


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Not only for precision: over short rows, torch's softmax in bf16 takes 5 times as long."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def _mask(P: Tensor, seen: Seen, dropout: Dropout) -> Tensor:
    keys, site, rate = dropout
    kept = masks.keep_mask(keys, site, seen.first_key + seen.keys, rate)[..., seen.first_key :]
    return masks.to_multiplier(kept, P.dtype)
