"""Sums over all rows of an array, from parts that the programs of a kernel have summed.

No atomics: parts are added up in one order, which their number alone decides.
"""

from __future__ import annotations

from torch import Tensor

from distsent.operators import gpu

N, STEP = 64, 32  # columns of a program, and parts that it reads at once


def add_parts(parts_PW: Tensor) -> Tensor:
    """The sum over P: float32 [W]."""
    P, W = parts_PW.shape
    out_W = parts_PW.new_empty(W)
    gpu.launch("row.add_parts", (-(-W // N), 1), parts_PW, out_W, P, W=W, M=STEP, N=N)
    return out_W
