"""GELU(x + bias) in Triton, and its gradients.

Shape letters: R rows (tokens), W width; M rows and N columns of a tile. Arrays are contiguous.
"""

import triton
import triton.language as tl

from distsent.operators.row_kernels import place

INVERSE_SQRT_2 = tl.constexpr(0.7071067811865476)
INVERSE_SQRT_2_PI = tl.constexpr(0.3989422804014327)


@triton.jit
def _below(x):
    """The standard normal distribution function."""
    return 0.5 + 0.5 * tl.erf(x * INVERSE_SQRT_2)


@triton.jit
def forward(
    x_RW, bias_W, out_RW, R,
    W: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * M + tl.arange(0, M)
    at, inside, columns = place(rows, tl.program_id(1) * N, R, W, N)
    bias = tl.load(bias_W + columns, mask=columns < W, other=0.0)
    x = tl.load(x_RW + at, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
    tl.store(out_RW + at, (x * _below(x)).to(out_RW.dtype.element_ty), mask=inside)


@triton.jit
def backward(
    dy_RW, x_RW, bias_W, dx_RW, parts_PW, R,
    W: tl.constexpr, M: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The gradient of x, rounded as it is stored, and this program's part of its sum over rows."""
    kind: tl.constexpr = dx_RW.dtype.element_ty
    columns = tl.program_id(1) * N + tl.arange(0, N)
    bias = tl.load(bias_W + columns, mask=columns < W, other=0.0)
    total = tl.zeros([M, N], tl.float32)
    for first in range(0, ROWS, M):
        rows = tl.program_id(0) * ROWS + first + tl.arange(0, M)
        at, inside, _ = place(rows, tl.program_id(1) * N, R, W, N)
        x = tl.load(x_RW + at, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
        dy = tl.load(dy_RW + at, mask=inside, other=0.0).to(tl.float32)
        density = tl.exp(-0.5 * x * x) * INVERSE_SQRT_2_PI
        dx = (dy * (_below(x) + x * density)).to(kind)
        tl.store(dx_RW + at, dx, mask=inside)
        total += dx.to(tl.float32)
    part = parts_PW + tl.program_id(0) * W + columns
    tl.store(part, tl.sum(total, 0), mask=columns < W)
