"""The kernels that compute row by row against their references: see interpreted_kernels.py."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from distsent.batching.dropout_keys import dropout_keys
from distsent.operators.dropout import Dropped, FusedDropout, reference


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


def run(device: str) -> Iterator[tuple[str, dict[str, float], float]]:
    """(name, errors, tolerance) of each case."""
    for name, case in DROPOUTS.items():
        yield name, dropout_errors(case, device), 0.0
