"""Attention's products of matrices [m, q, k]: in float32 one by one where oneDNN is faster.

torch's batched products go to MKL, and oneDNN's own only take one matrix: see linear.py. With 512
tokens and 32 columns a core of an EPYC with Zen 5 reaches 185 GFLOP/s instead of 79, with 256
tokens 132 instead of 98, with 128 tokens 60 instead of 95.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from distsent.operators.linear import onednn_is_faster, product

LEAST = 256 * 256  # elements of a matrix that is worth a call of its own


def parts(q: Tensor, queries: int, keys: int) -> Sequence[slice]:
    """The matrices of `q` [m, L, D] that are multiplied together: all, or each alone."""
    alone = _is_faster_alone(q, queries, keys)
    return [slice(i, i + 1) for i in range(len(q))] if alone else [slice(None)]


def times_transposed(a: Tensor, b: Tensor) -> Tensor:
    """a [m, q, D] times b [m, k, D] transposed: [m, q, k]."""
    if len(a) == 1 and _is_faster_alone(a, a.shape[1], b.shape[1]):
        return product(a[0], b[0])[None]
    return torch.bmm(a, b.transpose(1, 2))


def times(a: Tensor, b: Tensor, out: Tensor) -> None:
    """a [m, q, k] times b [m, k, D], into `out` [m, q, D]."""
    if len(a) == 1 and _is_faster_alone(a, *a.shape[1:]):
        out[0] = product(a[0], b[0].t())
    else:
        torch.bmm(a, b, out=out)


def transposed_times(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    """a [m, q, k] transposed times b [m, q, D], into `out` [m, k, D], or added to it."""
    if len(a) == 1 and _is_faster_alone(a, *a.shape[1:]):
        found = product(b[0].t(), a[0].t()).t()
        out[0] = out[0] + found if add else found
    elif add:
        out.baddbmm_(a.transpose(1, 2), b)
    else:
        torch.bmm(a.transpose(1, 2), b, out=out)


def _is_faster_alone(x: Tensor, queries: int, keys: int) -> bool:
    on_cpu = x.dtype == torch.float32 and x.device.type == "cpu"
    return on_cpu and queries * keys >= LEAST and onednn_is_faster()
