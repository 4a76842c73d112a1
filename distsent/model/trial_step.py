"""A training step that changes nothing: forward and backward over a few texts, with dropout."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distsent.model import batching_check
from distsent.model.forward import Forward, autocast


def trial_step(
    forward: Forward, ids: Sequence[np.ndarray], precision: str
) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the gradients of a weighted sum of them. `ids`: the tokens of each text.

    The model is left without gradients and in the mode that it was in.
    """
    model, training = forward.model, forward.model.training
    batch = batching_check.batch_of(ids, range(len(ids)), training=True, device=model.device)
    model.train()
    try:
        with torch.enable_grad():
            with autocast(model.device, precision):
                logits = forward(batch).float()
            weights = torch.from_numpy(np.random.default_rng(1).normal(size=logits.shape))
            (logits * weights.to(logits)).sum().backward()
        grads = [p.grad.float() for p in model.parameters() if p.grad is not None]
        return logits.detach(), grads
    finally:
        model.train(training)
        model.zero_grad(set_to_none=True)
