"""The kernels that compute row by row against their references: see interpreted_kernels.py."""

from collections.abc import Iterator
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from distsent.batching.dropout_keys import dropout_keys
from distsent.model.batching_check import batch_of
from distsent.model.packed_forward import PackedForward
from distsent.model.pooling import FIRST
from distsent.operators import bias_gelu, gpu, residual_norm
from distsent.operators.bias_gelu import BiasGelu
from distsent.operators.dropout import Dropped, FusedDropout, reference
from distsent.operators.residual_norm import Norm, ResidualNorm
from tests import tiny_models


@dataclass(frozen=True)
class Rows:
    R: int
    W: int
    dtype: torch.dtype = torch.float32
    rate: float = 0.1


DROPOUTS = {
    "dropout of one element": Rows(1, 1),
    "dropout": Rows(13, 384),
    "dropout, bf16": Rows(9, 768, torch.bfloat16),
    "dropout, fp16, half": Rows(8, 30, torch.float16, 0.5),
    "dropout of nearly all": Rows(70, 257, rate=0.99),
}


NORMS = {
    "norm of one row": Rows(1, 384),
    "norm": Rows(70, 768),
    "norm, bf16": Rows(33, 384, torch.bfloat16),
    "norm, fp16, half": Rows(9, 100, torch.float16, 0.5),
    "norm without dropout": Rows(5, 1024, rate=0.0),
    "norm of many short rows": Rows(1100, 17, torch.bfloat16),
}
GELUS = {
    "gelu of one element": Rows(1, 1),
    "gelu": Rows(70, 768),
    "gelu, bf16": Rows(65, 300, torch.bfloat16),
    "gelu, fp16": Rows(200, 32, torch.float16),
}
# Of sums over rows, which are added up in another order; of roundings of x's gradient.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}


def dropped_of(case: Rows, device: str) -> Dropped:
    keys = dropout_keys(3, 4, np.array([2**40 + 1]), np.array([case.R]))
    return Dropped(keys.to(device), 5, case.rate)


def different(found: Tensor, right: Tensor) -> float:
    """The number of elements with another value. NaN may have any bits."""
    found = found.cpu()
    same = (found == right.cpu()) | (found.isnan() & right.cpu().isnan())
    return float((~same).sum())


def dropout_errors(case: Rows, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    x, dout = torch.randn(2, 1, case.R, case.W).to(device, case.dtype)
    x[0, 0, 0] = -torch.inf
    found = []
    for function in (reference, FusedDropout.apply):
        leaf = x.clone().requires_grad_()
        out = function(leaf, dropped_of(case, device))
        out.backward(dout)
        found.append((out.detach(), leaf.grad))
    (right, dx), (out, grad) = found
    return {"out": different(out, right), "dx": different(grad, dx)}


def norm_errors(case: Rows, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    x = torch.randn(case.R, case.W).to(device, case.dtype)
    residual, dout = torch.randn(2, case.R, case.W).to(device)
    weight, bias = torch.randn(2, case.W).to(device)
    dropped = dropped_of(case, device) if case.rate else None
    found = []
    for fused in (False, True):
        leaves = [each.clone().requires_grad_() for each in (x, residual, weight, bias)]
        if fused:
            out = ResidualNorm.apply(*leaves, 1e-5, dropped)
        else:
            norm = Norm(leaves[2], leaves[3], 1e-5)
            out = residual_norm.reference(leaves[0], leaves[1], norm, dropped)
        out.backward(dout)
        found.append([out.detach(), *(each.grad for each in leaves)])
    names = "out", "dx", "dresidual", "dweight", "dbias"
    errors = {n: relative_error(b, a) for n, a, b in zip(names, *found, strict=True)}
    kept = [(each[1] != 0).float() for each in found]
    return errors | {"mask": different(*kept)}


def gelu_errors(case: Rows, device: str) -> dict[str, float]:
    torch.manual_seed(0)
    x, dout = torch.randn(2, 1, case.R, case.W).to(device, case.dtype)
    x[0, 0, 0], bias = 6.0, torch.randn(case.W).to(device)  # far out: exactly x
    found = []
    for function in (bias_gelu.reference, BiasGelu.apply):
        leaves = x.clone().requires_grad_(), bias.clone().requires_grad_()
        out = function(*leaves)
        out.backward(dout)
        found.append([out.detach(), *(each.grad for each in leaves)])
    names = "out", "dx", "dbias"
    return {n: relative_error(b, a) for n, a, b in zip(names, *found, strict=True)}


def model_errors() -> dict[str, float]:
    """A BERT of two layers with the kernels against one without: the arguments must arrive."""
    found = []
    for kernels in (False, True):
        forward = PackedForward(tiny_models.encoder(dropout=0.3), FIRST)
        forward.model.train()
        batch = batch_of([np.arange(3, 3 + n) for n in (9, 1, 5)], range(3), training=True)
        with patch.object(gpu, "runs", lambda x, answer=kernels: answer):
            logits = forward(batch)
            (logits * torch.arange(9.0).view(3, 3)).sum().backward()
        grads = torch.cat(
            [p.grad.view(-1) for p in forward.model.parameters() if p.grad is not None]
        )
        found.append((logits.detach(), grads))
    (logits, grads), (ours, our_grads) = found
    return {"logits": relative_error(ours, logits), "grads": relative_error(our_grads, grads)}


def relative_error(found: Tensor, right: Tensor) -> float:
    """The largest error over the largest value. NaN stays NaN, which no tolerance allows."""
    return float((found.double() - right.double()).abs().max() / right.double().abs().max())


def run(device: str) -> Iterator[tuple[str, dict[str, float], float]]:
    """(name, errors, tolerance) of each case."""
    for name, case in DROPOUTS.items():
        yield name, dropout_errors(case, device), 0.0
    for name, case in NORMS.items():
        yield name, norm_errors(case, device), TOLERANCE[case.dtype]
    for name, case in GELUS.items():
        yield name, gelu_errors(case, device), TOLERANCE[case.dtype]
    if device == "cpu":  # on a GPU, each run checks its own model: model/kernel_check.py
        yield "model", model_errors(), 1e-5
