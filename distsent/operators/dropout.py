"""Hashed dropout of hidden states [..., W], with a key for each row. On a GPU: one kernel each way.

Backward computes the masks again: nothing but the keys is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distsent.operators import gpu, masks

M, N = 8, 256  # rows and columns of a program on a GPU


@dataclass(frozen=True)
class Dropped:
    """Which elements one of the network's dropouts drops."""

    keys_R: Tensor  # int64, one for each row
    site: int
    rate: float


def dropout(x: Tensor, dropped: Dropped) -> Tensor:
    return FusedDropout.apply(x, dropped) if gpu.runs(x) else reference(x, dropped)


def reference(x: Tensor, dropped: Dropped) -> Tensor:
    mask = masks.keep_mask(dropped.keys_R, dropped.site, x.shape[-1], dropped.rate)
    return x * mask.reshape(x.shape).to(x.dtype).mul_(masks.inverse_keep_prob(dropped.rate))


class FusedDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dropped: Dropped) -> Tensor:
        ctx.dropped = dropped
        return _dropout(x.contiguous(), dropped)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _dropout(grads[0].contiguous(), ctx.dropped), None


def _dropout(x: Tensor, dropped: Dropped) -> Tensor:
    out, W = torch.empty_like(x), x.shape[-1]
    R, blocks = len(dropped.keys_R), -(-W // N)
    assert x.numel() == R * W and dropped.keys_R.is_contiguous()
    hashes = masks.hash_range(dropped.site + 1, blocks * N // masks.LANES, x.device)
    numbers = R, masks.inverse_keep_prob(dropped.rate), masks.threshold(dropped.rate)
    arrays = x, out, dropped.keys_R, hashes
    gpu.launch("row.dropout", (-(-R // M), blocks), *arrays, *numbers, W=W, M=M, N=N)
    return out
