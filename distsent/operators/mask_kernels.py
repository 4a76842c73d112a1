"""`masks.keep_mask` within Triton's kernels."""

import triton
import triton.language as tl

# Multipliers of operators/masks.py, as signed words: there and here `>>` shifts the sign in.
M1 = tl.constexpr(-0x40A7B892E31B1A47)
M2 = tl.constexpr(-0x6B2FB644ECCEEE15)


@triton.jit
def kept(row_keys_M, column_hashes, first, threshold, N: tl.constexpr):
    """`masks.keep_mask` of the columns from `first`, a multiple of four: [M, N].

    One word decides on four columns: the products, which cost most, are computed once for them.
    """
    hashes = tl.load(column_hashes + first // 4 + tl.arange(0, N // 4))
    word = (row_keys_M[:, None] ^ hashes[None, :]) * M1
    word = (word ^ (word >> 32)) * M2
    even = tl.interleave(_lane(word, 0, threshold), _lane(word, 2, threshold))
    odd = tl.interleave(_lane(word, 1, threshold), _lane(word, 3, threshold))
    return tl.interleave(even, odd)


@triton.jit
def _lane(word, number: tl.constexpr, threshold):
    return (word >> (16 * number)).to(tl.int16) >= threshold
