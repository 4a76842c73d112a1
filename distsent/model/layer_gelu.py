"""Where layers compute GELU(dense(x)), a product and one operator do.

These are BertIntermediate and its many copies. Their weights and names stay.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from distsent.operators import bias_gelu
from distsent.operators.half_linear import is_linear, without_bias

PARTS = {"dense", "intermediate_act_fn"}


def fuse_gelus(model: nn.Module) -> None:
    """Change the model's layers in place."""
    for module in model.modules():
        if is_gelu_of_dense(module):
            forward: Any = partial(_forward, module, module.forward)
            module.forward = forward


def _forward(part: Any, plain: Callable[[Tensor], Tensor], hidden_states: Tensor) -> Tensor:
    dense = part.dense  # may have become a layer with an adapter, or in 4 bits
    if (
        not is_linear(dense)
        or dense.bias is None
        or not bias_gelu.supports(hidden_states, dense.bias)
    ):
        return plain(hidden_states)
    out: Tensor = bias_gelu.BiasGelu.apply(without_bias(dense, hidden_states), dense.bias)
    return out


def is_gelu_of_dense(module: nn.Module) -> bool:
    """Whether the module computes what `_forward` does; its order is measured on numbers."""
    if {name for name, _ in module.named_children()} != PARTS:
        return False
    if getattr(module.get_submodule("intermediate_act_fn"), "act", None) is not F.gelu:
        return False  # of transformers' GELUActivation; others approximate it
    stub: Any = copy.copy(module)
    stub._modules = {
        "dense": partial(operator.mul, 2.0), "intermediate_act_fn": partial(operator.add, 3.0)
    }  # fmt: skip
    try:
        same: bool = stub(7.0) == 3.0 + 2.0 * 7.0
    except Exception:  # it takes other arguments, or looks at its weights
        return False
    return same
