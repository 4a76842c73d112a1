"""Dropout of x, plus the residual, then layer normalization: one kernel forward, two backward.

That is how a layer of BERT ends its attention and its feed-forward. The kernels are in
row_kernels.py. Rows [..., W] with a dropout key for each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distsent.operators import dropout, gpu, masks
from distsent.operators.dropout import Dropped
from distsent.operators.row_sums import add_parts

MAX_WIDTH = 4096  # of a row, which a program holds in registers
ROWS = 32  # of a program of the gradient: it writes one part of the sums over all rows


@dataclass(frozen=True)
class Norm:
    """Of nn.LayerNorm over the last axis."""

    weight_W: Tensor
    bias_W: Tensor
    eps: float


def residual_norm(x: Tensor, residual: Tensor, norm: Norm, dropped: Dropped | None) -> Tensor:
    """Without dropout: None."""
    if not (torch.is_grad_enabled() and supports(x, residual, norm)):
        return reference(x, residual, norm, dropped)
    arrays = x, residual, norm.weight_W, norm.bias_W
    return ResidualNorm.apply(*arrays, norm.eps, dropped)


def reference(x: Tensor, residual: Tensor, norm: Norm, dropped: Dropped | None) -> Tensor:
    x = x if dropped is None else dropout.dropout(x, dropped)
    return F.layer_norm(x + residual, norm.weight_W.shape, norm.weight_W, norm.bias_W, norm.eps)


def supports(x: Tensor, residual: Tensor, norm: Norm) -> bool:
    """Whether the kernels compute it: x may be 16 bits wide, the rest is float32."""
    wide = {residual.dtype, norm.weight_W.dtype, norm.bias_W.dtype} == {torch.float32}
    return gpu.runs(x) and wide and x.shape == residual.shape and x.shape[-1] <= MAX_WIDTH


class ResidualNorm(torch.autograd.Function):
    """x, residual, weight, bias -> float32 in the shape of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Any, residual: Any, weight: Any, bias: Any, eps: float, dropped: Any
    ) -> Tensor:
        sums, out = torch.empty_like(residual), torch.empty_like(residual)
        R, W = x.numel() // x.shape[-1], x.shape[-1]
        statistics = sums.new_empty((2, R))
        arrays = x.contiguous(), residual.contiguous(), weight, bias, sums, out, statistics
        rest = *dropout_arguments(x, dropped), eps
        options = constants(W, dropped, "forward")
        M = options["M"]
        gpu.launch("row.norm_forward", (-(-R // M), 1), *arrays, R, *rest, **options)
        ctx.save_for_backward(sums, statistics, weight)
        ctx.dropped, ctx.dtype = dropped, x.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dout, (sums, statistics, weight) = grads[0].contiguous(), ctx.saved_tensors
        (_, R), W = statistics.shape, len(weight)
        dx, dresidual = torch.empty_like(sums, dtype=ctx.dtype), torch.empty_like(sums)
        programs = -(-R // ROWS)
        parts_P2W = sums.new_empty((programs, 2 * W))
        arrays = dout, sums, statistics, weight, dx, dresidual, parts_P2W
        rest, options = dropout_arguments(dx, ctx.dropped), constants(W, ctx.dropped, "backward")
        gpu.launch("row.norm_backward", (programs, 1), *arrays, R, *rest, ROWS=ROWS, **options)
        if not (ctx.needs_input_grad[2] or ctx.needs_input_grad[3]):
            return dx, dresidual, None, None, None, None
        return dx, dresidual, *add_parts(parts_P2W).split(W), None, None


def dropout_arguments(x: Tensor, dropped: Dropped | None) -> tuple[Tensor, Tensor, float, int]:
    """Keys of the rows, hashes of the columns (without dropout: any arrays), factor, threshold."""
    if dropped is None:
        return x, x, 1.0, 0
    keys, W = dropped.keys_R, x.shape[-1]
    assert x.numel() == len(keys) * W and keys.is_contiguous()
    hashes = masks.hash_range(dropped.site + 1, gpu.padded(W) // masks.LANES, x.device)
    return keys, hashes, masks.inverse_keep_prob(dropped.rate), masks.threshold(dropped.rate)


def constants(W: int, dropped: Dropped | None, kernel: str) -> dict[str, Any]:
    """What a kernel is compiled for. Other tiles have other bits."""
    width = gpu.padded(W)
    M = min(ROWS, max(1, (4096 if kernel == "forward" else 2048) // width))
    warps = 4 if width <= 1024 else 8 if width <= 2048 else 16
    return {"W": W, "WIDTH": width, "M": M, "DROPOUT": dropped is not None, "num_warps": warps}
