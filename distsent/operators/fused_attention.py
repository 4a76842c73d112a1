"""Attention over a packed batch on a GPU: one kernel forward, three backward, whatever the lengths.

Reference: `PackedAttention` in model/attention_gradient.py. Shape letters: attention_kernels.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distsent.batching.block_tables import BlockTables, blocks
from distsent.operators import gpu, masks
from distsent.operators.softmax_dropout import UNLIMITED

Dropout = tuple[Tensor, int, float]  # keys_T, site, rate
MAX_WIDTH = 128  # of a head
ROWS = 64  # of a program that only sums rows
HASHES = 256  # words that a tile reads beyond the longest example, at most


@dataclass(frozen=True)
class Tiles:
    """Queries and keys of a kernel's tiles, its warps, and the tiles that it loads ahead."""

    M: int
    N: int
    warps: int = 4
    stages: int = 2


def tiles_of(kernel: str, width: int, itemsize: int) -> Tiles:
    """The fastest on an H100 of those that spill no register on sm_80, sm_90 and sm_100.

    Other tiles have other bits.
    """
    of_keys = kernel == "gradient_of_keys"
    if itemsize == 4 and width <= 64:
        return Tiles(16 if of_keys else 32, 32, 4)
    warps, stages = (8, 2) if width > 64 else (4, 3)
    M, N = (32, 16) if itemsize == 4 else (64, 32)
    return Tiles(N, M, warps, stages) if of_keys else Tiles(M, N, warps, stages)


@dataclass(frozen=True)
class Call:
    """What forward and backward of one attention have in common."""

    lengths: tuple[int, ...]  # of the examples
    cls_only: bool  # queries are of first tokens only
    scale: float
    dropout: Dropout | None = None
    before: int = UNLIMITED  # keys that a query sees before its own
    after: int = UNLIMITED
    tables: BlockTables | None = None  # where a recorded pass finds the blocks of each batch

    @property
    def longest(self) -> int:
        """Tokens of an example, at most."""
        return max(self.lengths) if self.tables is None else self.tables.longest

    def blocks(self, size: int, of_keys: bool, device: torch.device) -> Tensor:
        """The table of blocks of `size` queries or keys."""
        kind = size, self.cls_only and not of_keys, self.cls_only
        if self.tables is not None:
            return self.tables.table(*kind)
        return blocks(self.lengths, *kind, device)


def supports(q: Tensor) -> bool:
    return gpu.runs(q) and q.shape[-1] <= MAX_WIDTH


class FusedAttention(torch.autograd.Function):
    """q [R, H, D], k and v [T, H, D] -> [R, H, D], zero for tokens of no example."""

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, call: Call) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        out, lse = attention(q, k, v, call)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dout,) = grads
        return *attention_gradient(ctx.saved_tensors, dout.contiguous(), ctx.call), None


def attention(q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """The output, and what the gradient needs of the probabilities: float32 [H, R]."""
    R, H, _ = q.shape
    out, lse = new_rows(q, call), q.new_empty((H, R), dtype=torch.float32)
    options = constants(q, call, "forward")
    table = call.blocks(options["M"], False, q.device)
    arrays = q, k, v, out, lse, table, *dropout_arrays(call, q)
    gpu.launch("attention.forward", (len(table), H), *arrays, R, *numbers(call), **options)
    return out, lse


def attention_gradient(
    saved: tuple[Tensor, ...], dout: Tensor, call: Call
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, for that of the output. `saved`: q, k, v, output and `lse`."""
    q, k, v, out, lse = saved
    R, H, D = q.shape
    delta, dq, dk, dv = torch.empty_like(lse), *(new_rows(x, call) for x in (q, k, v))
    sizes = R, H, D, gpu.padded(D), ROWS
    gpu.launch(
        "attention.delta", (-(-R // ROWS), H), out, dout, delta, *sizes, enable_fp_fusion=True
    )
    inputs = q, k, v, dout, lse, delta
    rest = *dropout_arrays(call, q), R, call.scale, *numbers(call)
    options = constants(q, call, "gradient_of_queries")
    table = call.blocks(options["M"], False, q.device)
    gpu.launch(
        "attention.gradient_of_queries", (len(table), H), *inputs, dq, table, *rest, **options
    )
    options = constants(q, call, "gradient_of_keys")
    table = call.blocks(options["N"], True, q.device)
    gpu.launch(
        "attention.gradient_of_keys", (len(table), H), *inputs, dk, dv, table, *rest, **options
    )
    return dq, dk, dv


def new_rows(x: Tensor, call: Call) -> Tensor:
    """Memory for a result like x. Rows of no example, which the kernels skip, are zero."""
    if call.tables is not None:  # other rows in each batch
        return torch.zeros_like(x)
    rows = torch.empty_like(x)
    used = sum(call.lengths)
    if used < len(x) and not (call.cls_only and len(x) == len(call.lengths)):
        rows[used:] = 0
    return rows


def dropout_arrays(call: Call, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The keys of the tokens, and the hashes of heads and columns. Without dropout: any array."""
    if call.dropout is None:
        return q, q, q
    keys_T, site, _ = call.dropout
    words = -(-call.longest // (masks.LANES * HASHES)) * HASHES
    heads = masks.hash_range(masks.HEADS, q.shape[1], q.device)
    return keys_T, heads, masks.hash_range(site + 1, words, q.device)


def numbers(call: Call) -> tuple[float, float, int, int, int]:
    """Scale of the scores to base 2, scale of what is kept, least lane that is kept, window."""
    rate = call.dropout[2] if call.dropout else 0.0
    inverse, threshold = masks.inverse_keep_prob(rate), masks.threshold(rate)
    return call.scale / math.log(2), inverse, threshold, call.before, call.after


def constants(q: Tensor, call: Call, kernel: str) -> dict[str, Any]:
    """What a kernel is compiled for."""
    (_, H, D), window = q.shape, min(call.before, call.after) < call.longest - 1
    tiles = tiles_of(kernel, gpu.padded(D), q.itemsize)
    return {
        "H": H, "D": D, "WIDTH": gpu.padded(D), "M": 16 if call.cls_only else tiles.M, "N": tiles.N,
        "CLS_ONLY": call.cls_only, "DROPOUT": call.dropout is not None, "WINDOW": window,
        "num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True,
    }  # fmt: skip
