"""`train.recompute`: a layer keeps its input alone; backward computes the rest again.

Its dropouts then drop the same elements, because they are hashed, and other randomness gets the
generator's state back: gradients have the bits that they have without it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from torch import is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from distsent.errors import UserError

# Called before a layer: the context in which the layer's dropouts are numbered as they are then.
Again = Callable[[], AbstractContextManager[object]]


def recompute_layers(model: PreTrainedModel, again: Again) -> None:
    """Change the model's layers in place. Raises UserError if it has no repeated layers."""
    layers = repeated_layers(model)
    if not layers:
        name = type(model).__name__
        raise UserError(f"train.recompute = true: {name} has no repeated layers; set it to false")
    for layer in layers:
        forward: Any = partial(_forward, layer, layer.forward, again)
        layer.forward = forward


def is_recomputed(model: nn.Module) -> bool:
    """Whether `recompute_layers` changed it."""
    return any(getattr(layer.forward, "func", None) is _forward for layer in repeated_layers(model))


def repeated_layers(model: nn.Module) -> list[nn.Module]:
    """The outermost modules that transformers can compute again, else those of the main list."""
    known = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    inner = {id(part) for layer in known for part in layer.modules() if part is not layer}
    if known:
        return [layer for layer in known if id(layer) not in inner]
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=_size, default=[]))


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _forward(
    layer: nn.Module, forward: Callable[..., Any], again: Again, *args: Any, **kwargs: Any
) -> Any:
    if not (layer.training and is_grad_enabled()):
        return forward(*args, **kwargs)

    def contexts() -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
        return nullcontext(), again()

    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)
