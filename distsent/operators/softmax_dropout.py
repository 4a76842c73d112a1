"""Softmax of attention scores and dropout of its probabilities, and the backward pass of both.

Shapes: scores [m, q, k]: a matrix per example and head; examples of one length group together.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distsent.operators import library, masks

UNLIMITED = 1 << 30
Dropout = tuple[Tensor, int, float]  # keys [m, q] of the queries, site, rate
KINDS = {torch.float32: "float", torch.bfloat16: "bf16"}


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


def softmax_dropout(scores: Tensor, seen: Seen, dropout: Dropout | None) -> tuple[Tensor, Tensor]:
    """The probabilities, and what dropout leaves of them (not scaled up). May reuse `scores`."""
    if not _is_compiled(scores):
        return reference(scores, seen, dropout)
    dropped = scores if dropout is None else torch.empty_like(scores)
    _call("softmax_dropout", scores, seen, dropout, scores, dropped)
    return scores, dropped


def softmax_dropout_backward(
    P: Tensor, gradient: Tensor, seen: Seen, dropout: Dropout | None
) -> tuple[Tensor, Tensor]:
    """The gradient of the scores, and once more what dropout leaves of P. May reuse `gradient`.

    `gradient`: of what dropout left. Recomputing that saves a third of attention's memory.
    """
    if not _is_compiled(P):
        return reference_backward(P, gradient, seen, dropout)
    dropped = P if dropout is None else torch.empty_like(P)
    _call("softmax_dropout_backward", P, seen, dropout, P, gradient, dropped)
    return gradient, dropped


def reference(scores: Tensor, seen: Seen, dropout: Dropout | None) -> tuple[Tensor, Tensor]:
    wide = scores.to(_wide(scores.dtype))
    # Not -inf: a query without a token may see no key, and would be NaN.
    per_example = wide.view(len(seen.used_g), -1, *scores.shape[1:])
    per_example.masked_fill_(seen.hidden, torch.finfo(wide.dtype).min)
    P = torch.softmax(wide, dim=-1).to(scores.dtype)
    return P, P if dropout is None else masks.apply_mask(P, _mask(P, seen, dropout))


def reference_backward(
    P: Tensor, gradient: Tensor, seen: Seen, dropout: Dropout | None
) -> tuple[Tensor, Tensor]:
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


def _is_compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in KINDS and library.used() != library.REFERENCE


class Scores(ctypes.Structure):
    """The struct of softmax_dropout.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("matrices", "queries", "columns", "heads")),
        ("used", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("first_query", "first_key", "before", "after")),
        ("keys", ctypes.c_void_p), ("key_stride", ctypes.c_int64),
        ("hashes", ctypes.c_void_p), ("threshold", ctypes.c_int32),
    ]  # fmt: skip


def _call(name: str, x: Tensor, seen: Seen, dropout: Dropout | None, *arrays: Tensor) -> None:
    assert all(array.is_contiguous() for array in arrays) and seen.first_key % masks.LANES == 0
    matrices, queries, columns = x.shape
    scores = Scores(
        matrices, queries, columns, seen.heads, seen.used_g.data_ptr(),
        seen.first_query, seen.first_key, seen.before, seen.after,
    )  # fmt: skip
    if dropout is not None:
        keys, site, rate = dropout
        assert keys.shape == (matrices, queries) and keys.stride(1) == 1
        skipped = seen.first_key // masks.LANES
        # Vectors read up to 16 columns at once.
        hashes = masks.hash_range(site + 1, skipped + -(-columns // 16) * 4, keys.device)
        scores.keys, scores.key_stride = keys.data_ptr(), keys.stride(0)
        scores.hashes = hashes.data_ptr() + skipped * hashes.element_size()
        scores.threshold = masks.threshold(rate)
    function = getattr(library.load(), f"{name}_{KINDS[x.dtype]}")
    function(ctypes.byref(scores), *(ctypes.c_void_p(array.data_ptr()) for array in arrays))
