"""The last linear layer of a classifier's head, and logits divided by temperatures in it."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel

from distsent.errors import UserError
from distsent.model.batching_check import small_copy
from distsent.model.classifier import shortest_input
from distsent.model.config import vocabulary

LEAST, MOST = 2.0, 4.0  # by which the check divides
TOLERANCE = 1e-6  # of the largest logit; some architectures compute a part in float32


def last_linear(model: PreTrainedModel) -> nn.Linear | None:
    """The last linear layer above the encoder that has an output per class."""
    inside = f"{model.base_model_prefix}."
    found = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(inside)
        and ".original_module" not in name  # peft keeps the head that it replaces
    ]
    return found[-1] if found else None


def check_head(model: PreTrainedModel) -> None:
    """Raise UserError unless dividing the last linear layer divides the logits, and no more.

    Measured on a small copy of the architecture.
    """
    with suppress(Exception), torch.no_grad(), torch.random.fork_rng(devices=[]):
        small = small_copy(model).eval()
        ids = torch.arange(max(8, shortest_input(small.config)))[None] % vocabulary(small.config)
        before = small(input_ids=ids).logits
        factors = torch.linspace(LEAST, MOST, small.config.num_labels)
        with divided_logits(small, factors.numpy()):
            after = small(input_ids=ids).logits
        largest = before.abs().max()
        if largest > 0 and (after * factors - before).abs().max() <= TOLERANCE * largest:
            return
    name = type(model).__name__
    problem = f"the logits of {name} do not come from a linear layer of its head alone"
    raise UserError(f"eval.calibrate: {problem}, so they cannot be divided in it; leave it off")


@contextmanager
def divided_logits(model: PreTrainedModel, temperature: np.ndarray) -> Iterator[None]:
    """Within it, the model's logits are divided by `temperature`; after it, its bits are back.

    `temperature`: one number, or one for each logit.
    """
    layer = last_linear(model) if (temperature != 1).any() else None
    weights = [] if layer is None else [p for p in (layer.weight, layer.bias) if p is not None]
    kept = [p.detach().clone() for p in weights]
    try:
        with torch.no_grad():
            for p in weights:
                divisor = torch.from_numpy(temperature).to(p.device)
                p.copy_(p.double() / (divisor[:, None] if p.ndim > 1 else divisor))
        yield
    finally:
        with torch.no_grad():
            for p, before in zip(weights, kept, strict=True):
                p.copy_(before)
