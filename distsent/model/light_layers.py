"""Layers of decoders keep less for backward: what is computed quickly is computed again.

Between its matrix products a decoder's layer computes element by element, in normalizations and in
its gated feed-forward. transformers writes these as several operations; each keeps what it read,
much of it in float32. Here each of these parts keeps its input alone. Gradients have the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

PARTS = {"gate_proj", "up_proj", "down_proj", "act_fn"}
QUICKLY: Any = {
    "use_reentrant": False, "preserve_rng_state": False, "determinism_check": "none",
}  # fmt: skip


def lighten_layers(model: PreTrainedModel) -> None:
    """Change the model's normalizations and gated feed-forwards in place."""
    for module in model.modules():
        forward: Any = None
        if type(module).__name__.endswith("RMSNorm") and not isinstance(module, nn.RMSNorm):
            forward = partial(_again, module.forward)
        elif is_gated(module):
            forward = partial(_gated, module)
        if forward is not None:
            module.forward = forward


def _again(compute: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    if not (is_grad_enabled() and inputs[0].requires_grad):
        return compute(*inputs)
    return checkpoint(compute, *inputs, **QUICKLY)


def _gated(part: Any, x: Tensor) -> Tensor:
    gate, up = part.gate_proj(x), part.up_proj(x)
    return part.down_proj(_again(partial(_product, part.act_fn), gate, up))


def _product(activate: Callable[[Tensor], Tensor], gate: Tensor, up: Tensor) -> Tensor:
    return activate(gate) * up


class Times(nn.Module):
    """Stands for a projection: as quick as can be."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@torch.no_grad()
def is_gated(module: nn.Module) -> bool:
    """Whether the module computes what `_gated` does, measured in training mode."""
    if {name for name, _ in module.named_children()} != PARTS:
        return False
    stub = copy.copy(module)
    projections = {"gate_proj": Times(0.5), "up_proj": Times(0.75), "down_proj": Times(1.25)}
    stub._modules = {**module._modules, **projections}
    stub.training = True
    x = torch.linspace(-4, 4, 512).view(1, 64, 8)
    try:
        return torch.equal(stub(x), _gated(stub, x))
    except Exception:  # it takes other arguments, or looks at its weights
        return False
