"""Row by row in Triton: hashed dropout of hidden states; with it, residual and normalization.

No atomics: sums over rows are added up in one order, which their number alone decides.
Shape letters: R rows (tokens), W width; M rows and N or WIDTH columns of a tile. Arrays are
contiguous.
"""

import triton
import triton.language as tl

from distsent.operators.mask_kernels import kept


@triton.jit
def dropout(
    x_RW, out_RW, keys_R, column_hashes, R, inverse_keep_prob, threshold,
    W: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """x times its mask, whose elements have the dtype of x. Also the kernel of the gradient."""
    rows, first = tl.program_id(0) * M + tl.arange(0, M), tl.program_id(1) * N
    at, inside, _ = place(rows, first, R, W, N)
    x = tl.load(x_RW + at, mask=inside, other=0.0).to(tl.float32)
    kind: tl.constexpr = x_RW.dtype.element_ty
    out = _dropped(
        x, keys_R, column_hashes, rows, R, first, inverse_keep_prob, threshold, kind, N
    )  # fmt: skip
    tl.store(out_RW + at, out.to(kind), mask=inside)


@triton.jit
def _dropped(
    x, keys_R, column_hashes, rows, R, first, inverse_keep_prob, threshold, kind: tl.constexpr,
    N: tl.constexpr,
):  # fmt: skip
    """x times its mask, both in the dtype `kind`: float32 [M, N], of columns from `first` on."""
    keys = tl.load(keys_R + rows, mask=rows < R, other=0)
    factor = tl.where(kept(keys, column_hashes, first, threshold, N), inverse_keep_prob, 0.0)
    return (x * factor.to(kind).to(tl.float32)).to(kind).to(tl.float32)


@triton.jit
def place(rows, first, R, W: tl.constexpr, N: tl.constexpr):
    """Where the rows' columns from `first` on are, what of it is inside, and the columns."""
    columns = first + tl.arange(0, N)
    inside = (rows < R)[:, None] & (columns < W)[None, :]
    return rows.to(tl.int64)[:, None] * W + columns[None, :], inside, columns


@triton.jit
def norm_forward(
    x_RW, residual_RW, weight_W, bias_W, sums_RW, normed_RW, statistics_2R, R,
    keys_R, column_hashes, inverse_keep_prob, threshold, eps,
    W: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """The output, and for the gradient its input's sum, mean and inverse standard deviation."""
    rows = tl.program_id(0) * M + tl.arange(0, M)
    at, inside, columns = place(rows, 0, R, W, WIDTH)
    x = tl.load(x_RW + at, mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        x = _dropped(
            x, keys_R, column_hashes, rows, R, 0, inverse_keep_prob, threshold,
            x_RW.dtype.element_ty, WIDTH,
        )  # fmt: skip
    x += tl.load(residual_RW + at, mask=inside, other=0.0)
    mean = tl.sum(x, 1) / W
    centered = tl.where(inside, x - mean[:, None], 0.0)
    inverse = 1.0 / tl.sqrt_rn(tl.sum(centered * centered, 1) / W + eps)
    weight = tl.load(weight_W + columns, mask=columns < W, other=0.0)
    bias = tl.load(bias_W + columns, mask=columns < W, other=0.0)
    normed = centered * inverse[:, None] * weight[None, :] + bias[None, :]
    tl.store(normed_RW + at, normed, mask=inside)
    tl.store(sums_RW + at, x, mask=inside)
    tl.store(statistics_2R + rows, mean, mask=rows < R)
    tl.store(statistics_2R + R + rows, inverse, mask=rows < R)


@triton.jit
def norm_backward(
    dout_RW, sums_RW, statistics_2R, weight_W, dx_RW, dresidual_RW, parts_P2W, R,
    keys_R, column_hashes, inverse_keep_prob, threshold,
    W: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, DROPOUT: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of x and residual, and this program's part of those of weight and bias."""
    columns = tl.arange(0, WIDTH)
    weight = tl.load(weight_W + columns, mask=columns < W, other=0.0)
    dweight, dbias = tl.zeros([M, WIDTH], tl.float32), tl.zeros([M, WIDTH], tl.float32)
    for first in range(0, ROWS, M):
        rows = tl.program_id(0) * ROWS + first + tl.arange(0, M)
        at, inside, _ = place(rows, 0, R, W, WIDTH)
        mean = tl.load(statistics_2R + rows, mask=rows < R, other=0.0)
        inverse = tl.load(statistics_2R + R + rows, mask=rows < R, other=0.0)
        dout = tl.load(dout_RW + at, mask=inside, other=0.0)
        sums = tl.load(sums_RW + at, mask=inside, other=0.0)
        normed = tl.where(inside, (sums - mean[:, None]) * inverse[:, None], 0.0)
        dweight += dout * normed
        dbias += dout
        d = dout * weight[None, :]
        along, average = tl.sum(d * normed, 1) / W, tl.sum(d, 1) / W
        d = (d - normed * along[:, None] - average[:, None]) * inverse[:, None]
        tl.store(dresidual_RW + at, d, mask=inside)
        kind: tl.constexpr = dx_RW.dtype.element_ty
        d = d.to(kind).to(tl.float32)
        if DROPOUT:
            d = _dropped(
                d, keys_R, column_hashes, rows, R, 0, inverse_keep_prob, threshold, kind, WIDTH
            )
        tl.store(dx_RW + at, d.to(kind), mask=inside)
    part = parts_P2W + tl.program_id(0) * 2 * W + columns
    tl.store(part, tl.sum(dweight, 0), mask=columns < W)
    tl.store(part + W, tl.sum(dbias, 0), mask=columns < W)


@triton.jit
def add_parts(parts_PW, out_W, P, W: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    """The sum over P."""
    columns = tl.program_id(0) * N + tl.arange(0, N)
    total = tl.zeros([M, N], tl.float32)
    for first in range(0, P, M):
        rows = first + tl.arange(0, M)
        inside = (rows < P)[:, None] & (columns < W)[None, :]
        total += tl.load(parts_PW + rows[:, None] * W + columns[None, :], mask=inside, other=0.0)
    tl.store(out_W + columns, tl.sum(total, 0), mask=columns < W)
