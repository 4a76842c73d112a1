"""Move outliers of activations into the weights, so that 8 bits are enough for both.

SmoothQuant (Xiao et al., 2023): the input channels of each linear layer are divided by a factor,
and its weights multiplied by it. The layer computes the same as before. Layers with the same input
share the factors.
"""

from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn

STRENGTH = 0.5  # 1: activations become even, 0: weights do
LEAST = 1e-5  # of a channel's largest value: some are always 0


class Smoothed(nn.Module):
    """A linear layer with input channels divided by `scale` [channels]."""

    def __init__(self, layer: nn.Linear, scale: torch.Tensor) -> None:
        super().__init__()
        self.layer = layer
        self.register_buffer("inverse", 1 / scale)
        layer.weight.mul_(scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * self.inverse)


@torch.no_grad()
def smooth(model: nn.Module, batches: Iterable[dict[str, np.ndarray]]) -> None:
    """Replace the linear layers of a classifier by equal ones, by what they read in `batches`."""
    largest: dict[nn.Linear, torch.Tensor] = {}
    source: dict[nn.Linear, torch.Tensor] = {}  # kept, as ids of freed ones are used again

    def watch(layer: nn.Linear, args: Any) -> None:
        found = args[0].flatten(0, -2).abs().amax(0)
        largest[layer] = torch.maximum(found, largest.get(layer, found))
        source[layer] = args[0]

    with ExitStack() as stack:
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                hook = layer.register_forward_pre_hook(watch)
                stack.callback(hook.remove)
        for batch in batches:
            source.clear()
            model(**{name: torch.from_numpy(values) for name, values in batch.items()})
    same: dict[int, list[nn.Linear]] = {}
    for layer, tensor in source.items():
        same.setdefault(id(tensor), []).append(layer)
    scales = {layer: scale for group in same.values() for layer, scale in _scales(group, largest)}
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child in scales:
                setattr(module, name, Smoothed(child, scales[child]))


def _scales(group: list[nn.Linear], largest: dict[nn.Linear, torch.Tensor]) -> Any:
    """The factors [channels] of layers with the same input, for each of them."""
    of_weights = torch.stack([layer.weight.abs().amax(0) for layer in group]).amax(0)
    channels = torch.stack([largest[layer] for layer in group]).amax(0).clamp(min=LEAST)
    scale = channels**STRENGTH / of_weights.clamp(min=LEAST) ** (1 - STRENGTH)
    return [(layer, scale) for layer in group]
