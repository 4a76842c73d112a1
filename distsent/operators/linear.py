"""Linear layers in float32 through oneDNN, on CPUs where MKL leaves half of each vector unused.

torch gives float32 products to MKL. On AMD's CPUs MKL runs its AVX2 kernels, though they have
AVX-512: 106 GFLOP/s on a core of an EPYC with Zen 5, where oneDNN's own kernels reach 190 to 240.
oneDNN comes with torch, which uses it for 16-bit products anyway.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CPUINFO = Path("/proc/cpuinfo")


@cache
def onednn_is_faster() -> bool:
    """Whether MKL would use half of the vector width here, and oneDNN is at hand."""
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    known = hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return wide and both and known and "AuthenticAMD" in vendor()


def vendor() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith("vendor_id")), "")


def use_onednn(model: nn.Module) -> None:
    """Let the model's linear layers compute through oneDNN in float32 on a CPU."""
    for module in model.modules():
        if type(module) is nn.Linear:  # not 4-bit layers and other subclasses
            module.__class__ = OneDNNLinear


class OneDNNLinear(nn.Linear):
    """`nn.Linear` with the same parameters, and the same result but for rounding."""

    def forward(self, x: Tensor) -> Tensor:
        plain = x.dtype == self.weight.dtype == torch.float32 and x.device.type == "cpu"
        if plain and x.numel() and not torch.is_autocast_enabled("cpu"):
            # Reshaped out here: autograd forbids changing a function's own views in place.
            y = Product.apply(x.reshape(-1, x.shape[-1]), self.weight, self.bias)
            return y.view(*x.shape[:-1], -1)
        return F.linear(x, self.weight, self.bias)


class Product(torch.autograd.Function):
    """x [n, K], weight [N, K], bias [N] or None -> [n, N]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dy,) = grads
        x, weight = ctx.saved_tensors
        dx = product(dy, weight.t()) if ctx.needs_input_grad[0] else None
        dw = product(dy.t(), x.t()) if ctx.needs_input_grad[1] else None
        db = dy.sum(0) if ctx.needs_input_grad[2] else None
        return dx, dw, db


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias. Transposed views are as fast as copies."""
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")
