"""Row by row in Triton: hashed dropout of hidden states.

Shape letters: R rows (tokens), W width; M rows and N columns of a tile. Arrays are contiguous.
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
    columns = first + tl.arange(0, N)
    keys = tl.load(keys_R + rows, mask=rows < R, other=0)
    inside = (rows < R)[:, None] & (columns < W)[None, :]
    at = rows.to(tl.int64)[:, None] * W + columns[None, :]
    x = tl.load(x_RW + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.where(kept(keys, column_hashes, first, threshold, N), inverse_keep_prob, 0.0)
    out = x * factor.to(x_RW.dtype.element_ty).to(tl.float32)
    tl.store(out_RW + at, out.to(out_RW.dtype.element_ty), mask=inside)
