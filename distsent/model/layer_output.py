"""Where layers end in LayerNorm(dropout(dense(x)) + residual), one operator does all but the dense.

These are BertSelfOutput, BertOutput and their many copies. Their weights and names stay.
"""

from __future__ import annotations

import copy
import operator
from functools import partial
from inspect import signature
from typing import Any

from torch import Tensor, nn

from distsent.model.dropout import TokenDropout
from distsent.operators.residual_norm import Norm, residual_norm

PARTS = {"dense", "LayerNorm", "dropout"}
INPUTS = ["hidden_states", "input_tensor"]


def fuse_layer_outputs(model: nn.Module) -> None:
    """Change the model's layers in place, after their dropouts became TokenDropout."""
    for module in model.modules():
        if is_layer_output(module):
            forward: Any = partial(_forward, module)
            module.forward = forward


def _forward(part: Any, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
    x, norm = part.dense(hidden_states), part.LayerNorm
    dropped = part.dropout.of(x)
    return residual_norm(x, input_tensor, Norm(norm.weight, norm.bias, norm.eps), dropped)


def is_layer_output(module: nn.Module) -> bool:
    """Whether the module computes what `_forward` does, measured on numbers."""
    if {name for name, _ in module.named_children()} != PARTS:
        return False
    norm: Any = module.get_submodule("LayerNorm")
    if type(norm) is not nn.LayerNorm or type(module.get_submodule("dropout")) is not TokenDropout:
        return False
    if norm.weight is None or norm.bias is None or len(norm.normalized_shape) > 1:
        return False
    stub: Any = copy.copy(module)
    factors = {"dense": 2.0, "dropout": 3.0, "LayerNorm": 5.0}
    stub._modules = {name: partial(operator.mul, factor) for name, factor in factors.items()}
    try:
        same = stub(7.0, 11.0) == 5.0 * (3.0 * (2.0 * 7.0) + 11.0)
    except Exception:  # it takes other arguments, or looks at its weights
        return False
    return same and list(signature(module.forward).parameters) == INPUTS
