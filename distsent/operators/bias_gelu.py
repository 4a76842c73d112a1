"""GELU(x + bias) after a product: one kernel forward; backward sums the bias's gradient as it goes.

Without it torch reads the gradient of x once more, for that sum. Rows [..., W].
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distsent.operators import gpu
from distsent.operators.row_sums import add_parts

M, N = 8, 256  # rows and columns of a tile
ROWS = 64  # of a program of the gradient: it writes one part of the sum over all rows


def reference(x: Tensor, bias_W: Tensor) -> Tensor:
    return F.gelu(x + bias_W).to(x.dtype)


def supports(x: Tensor, bias_W: Tensor) -> bool:
    """Whether the kernels compute it: x may be 16 bits wide, the bias is float32."""
    return torch.is_grad_enabled() and gpu.runs(x) and bias_W.dtype == torch.float32


class BiasGelu(torch.autograd.Function):
    """x, bias -> the shape and dtype of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias_W: Tensor) -> Tensor:
        x = x.contiguous()
        out, W = torch.empty_like(x), len(bias_W)
        R = x.numel() // W
        grid = -(-R // M), -(-W // N)
        gpu.launch("gelu.forward", grid, x, bias_W, out, R, W=W, M=M, N=N)
        ctx.save_for_backward(x, bias_W)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        dy, (x, bias_W) = grads[0].contiguous(), ctx.saved_tensors
        dx, W = torch.empty_like(x), len(bias_W)
        R = x.numel() // W
        programs = -(-R // ROWS)
        parts_PW = bias_W.new_empty((programs, W))
        arrays = dy, x, bias_W, dx, parts_PW
        options = {"W": W, "M": M, "N": N, "ROWS": ROWS}
        gpu.launch("gelu.backward", (programs, -(-W // N)), *arrays, R, **options)
        return dx, add_parts(parts_PW) if ctx.needs_input_grad[1] else None
