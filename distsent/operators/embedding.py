"""Token embedding whose gradient is added to the rows of a buffer, in one fixed order.

For torch's sparse gradients a CPU has to wait until the GPU has found which tokens are padding.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def add_rows_to(embedding: nn.Embedding, grad_VW: Tensor) -> bool:
    """Let `embedding` add its gradient to `grad_VW`. False if it does more than look rows up."""
    plain = type(embedding).forward is nn.Embedding.forward and "forward" not in vars(embedding)
    if not plain or embedding.max_norm is not None or embedding.scale_grad_by_freq:
        return False
    module: Any = embedding
    module.forward = partial(_forward, embedding, grad_VW)
    return True


def _forward(embedding: nn.Embedding, grad_VW: Tensor, ids: Tensor) -> Tensor:
    out: Tensor = Rows.apply(ids, embedding.weight, grad_VW, embedding.padding_idx)
    return out


class Rows(torch.autograd.Function):
    """ids [...], weight [V, W] -> [..., W]. Tokens of the id `padding` have no gradient."""

    @staticmethod
    def forward(
        ctx: Any, ids: Tensor, weight: Tensor, grad_VW: Tensor, padding: int | None
    ) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.grad_VW, ctx.padding = grad_VW, padding
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        """autograd gets no gradient to add."""
        (ids,), grad_VW = ctx.saved_tensors, ctx.grad_VW
        rows = grads[0].reshape(-1, grad_VW.shape[1]).to(grad_VW.dtype)
        if ctx.padding is not None:
            rows = rows.masked_fill((ids == ctx.padding).view(-1, 1), 0.0)
        grad_VW.index_add_(0, ids.reshape(-1), rows)
        return None, None, None, None
