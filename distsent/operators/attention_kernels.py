"""Attention over a packed batch in Triton, in the shape of FlashAttention-2, with hashed dropout.

A program computes one block of one example and head, and sums in one order: no atomics, and no
example's bits depend on the other examples. Scores and sums are float32, products are in the dtype
of their inputs (float32 without TF32).

Shape letters: T tokens, R queries (T, or one per example), H heads, D width of a head; M queries
and N keys of a tile. All arrays are contiguous. `blocks` has a row per program of the first axis:
its example's first token, tokens and first query, and the block's first query or key in it.
"""

import triton
import triton.language as tl

from distsent.operators.mask_kernels import kept as _kept


@triton.jit
def _block(blocks, CLS_ONLY: tl.constexpr):
    """First token, tokens, first query and queries of the program's example; its block's start."""
    entry = blocks + 4 * tl.program_id(0)
    start, length = tl.load(entry).to(tl.int64), tl.load(entry + 1)
    row, first = tl.load(entry + 2).to(tl.int64), tl.load(entry + 3)
    return start, length, row, tl.minimum(length, 1) if CLS_ONLY else length, first


@triton.jit
def _load(head, rows, stride, count, D: tl.constexpr, WIDTH: tl.constexpr):
    """[rows, WIDTH] of a head, zero beyond `count` rows and D columns."""
    d = tl.arange(0, WIDTH)
    inside = (rows < count)[:, None]
    if D < WIDTH:
        inside = inside & (d < D)[None, :]
    return tl.load(head + rows[:, None] * stride + d[None, :], mask=inside, other=0.0)


@triton.jit
def _store(head, x, rows, stride, count, D: tl.constexpr, WIDTH: tl.constexpr):
    d = tl.arange(0, WIDTH)
    inside = (rows < count)[:, None]
    if D < WIDTH:
        inside = inside & (d < D)[None, :]
    tl.store(head + rows[:, None] * stride + d[None, :], x.to(head.dtype.element_ty), mask=inside)


@triton.jit
def _seen(queries, keys, length, before, after, WINDOW: tl.constexpr):
    """Whether a query sees a key. Both broadcast: [M, 1] and [1, N], or [1, M] and [N, 1]."""
    seen = (keys < length) & (queries >= 0)
    if WINDOW:
        seen = seen & (keys >= queries - before) & (keys <= queries + after)
    return seen


@triton.jit
def _of_queries(
    q_RHD, dout_RHD, lse_HR, delta_HR, query, row, queries, R, count,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """What both gradients read of a block of queries: q and dout [M, WIDTH], lse and delta [M]."""
    q = _load(q_RHD + query, queries, H * D, count, D, WIDTH)
    dout = _load(dout_RHD + query, queries, H * D, count, D, WIDTH)
    statistics, real = tl.program_id(1) * R + row + queries, queries < count
    # Infinite: a query that is not there has no probabilities.
    lse = tl.load(lse_HR + statistics, mask=real, other=float("inf"))
    return q, dout, lse, tl.load(delta_HR + statistics, mask=real, other=0.0)


@triton.jit
def _range(first, size, before, after, count, STEP: tl.constexpr, WINDOW: tl.constexpr):
    """Where tiles begin and end that rows `first` to `first + size` see, or are seen by."""
    begin, end = 0, count
    if WINDOW:
        begin = tl.maximum(first - before, 0) // STEP * STEP
        end = tl.minimum(first + size + after, count)
    return begin, end


@triton.jit
def _row_keys(keys_T, head_hashes_H, start, queries, count):
    """The dropout keys [M] of an example's queries, for the program's head."""
    keys = tl.load(keys_T + start + queries, mask=queries < count, other=0)
    return keys ^ tl.load(head_hashes_H + tl.program_id(1))


@triton.jit
def forward(
    q_RHD, k_THD, v_THD, out_RHD, lse_HR, blocks, keys_T, head_hashes_H, column_hashes, R,
    base_2_scale, inverse_keep_prob, threshold, before, after,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CLS_ONLY: tl.constexpr, DROPOUT: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """The output, and the logarithm of each query's sum of exponentials, to base 2."""
    start, length, row, count, first = _block(blocks, CLS_ONLY)
    head = tl.program_id(1)
    token, query = start * (H * D) + head * D, row * (H * D) + head * D
    queries = first + tl.arange(0, M)
    q = _load(q_RHD + query, queries, H * D, count, D, WIDTH)
    if DROPOUT:
        row_keys = _row_keys(keys_T, head_hashes_H, start, queries, count)
    greatest = tl.full([M], -1e30, tl.float32)  # finite: rows may see no key of a tile
    total = tl.zeros([M], tl.float32)
    out = tl.zeros([M, WIDTH], tl.float32)
    begin, end = _range(first, M, before, after, length, N, WINDOW)
    for n in range(begin, end, N):
        keys = n + tl.arange(0, N)
        k = _load(k_THD + token, keys, H * D, length, D, WIDTH)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * base_2_scale
        seen = _seen(queries[:, None], keys[None, :], length, before, after, WINDOW)
        s = tl.where(seen, s, -float("inf"))
        greater = tl.maximum(greatest, tl.max(s, 1))
        p = tl.exp2(s - greater[:, None])
        shrink = tl.exp2(greatest - greater)
        total = total * shrink + tl.sum(p, 1)
        if DROPOUT:
            p = tl.where(_kept(row_keys, column_hashes, n, threshold, N), p, 0.0)
        v = _load(v_THD + token, keys, H * D, length, D, WIDTH)
        out = tl.dot(p.to(v.dtype), v, out * shrink[:, None], input_precision="ieee")
        greatest = greater
    total = tl.where(total == 0.0, 1.0, total)  # rows past the example may see no key
    out = out * (inverse_keep_prob / total)[:, None]
    _store(out_RHD + query, out, queries, H * D, count, D, WIDTH)
    tl.store(lse_HR + head * R + row + queries, greatest + tl.log2(total), mask=queries < count)


@triton.jit
def delta(
    out_RHD, dout_RHD, delta_HR, R,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr,
):  # fmt: skip
    """The sum of each output times its gradient, which the backward of softmax subtracts."""
    first, head, rows = tl.program_id(0).to(tl.int64) * M, tl.program_id(1), tl.arange(0, M)
    count = (R - first).to(tl.int32)
    base = first * (H * D) + head * D
    out = _load(out_RHD + base, rows, H * D, count, D, WIDTH).to(tl.float32)
    dout = _load(dout_RHD + base, rows, H * D, count, D, WIDTH).to(tl.float32)
    tl.store(delta_HR + head * R + first + rows, tl.sum(out * dout, 1), mask=rows < count)


@triton.jit
def gradient_of_queries(
    q_RHD, k_THD, v_THD, dout_RHD, lse_HR, delta_HR, dq_RHD, blocks,
    keys_T, head_hashes_H, column_hashes, R,
    scale, base_2_scale, inverse_keep_prob, threshold, before, after,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CLS_ONLY: tl.constexpr, DROPOUT: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    start, length, row, count, first = _block(blocks, CLS_ONLY)
    head = tl.program_id(1)
    token, query = start * (H * D) + head * D, row * (H * D) + head * D
    queries = first + tl.arange(0, M)
    q, dout, lse, delta = _of_queries(
        q_RHD, dout_RHD, lse_HR, delta_HR, query, row, queries, R, count, H, D, WIDTH
    )
    if DROPOUT:
        row_keys = _row_keys(keys_T, head_hashes_H, start, queries, count)
    dq = tl.zeros([M, WIDTH], tl.float32)
    begin, end = _range(first, M, before, after, length, N, WINDOW)
    for n in range(begin, end, N):
        keys = n + tl.arange(0, N)
        k = _load(k_THD + token, keys, H * D, length, D, WIDTH)
        v = _load(v_THD + token, keys, H * D, length, D, WIDTH)
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * base_2_scale
        seen = _seen(queries[:, None], keys[None, :], length, before, after, WINDOW)
        p = tl.exp2(tl.where(seen, s, -float("inf")) - lse[:, None])
        dp = tl.dot(dout, tl.trans(v), input_precision="ieee")
        if DROPOUT:
            kept = _kept(row_keys, column_hashes, n, threshold, N)
            dp = tl.where(kept, dp * inverse_keep_prob, 0.0)
        ds = p * (dp - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")
    _store(dq_RHD + query, dq * scale, queries, H * D, count, D, WIDTH)


@triton.jit
def gradient_of_keys(
    q_RHD, k_THD, v_THD, dout_RHD, lse_HR, delta_HR, dk_THD, dv_THD, blocks,
    keys_T, head_hashes_H, column_hashes, R,
    scale, base_2_scale, inverse_keep_prob, threshold, before, after,
    H: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    CLS_ONLY: tl.constexpr, DROPOUT: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """And of values. Tiles are transposed, [N, M]: so no product needs a transposed score."""
    start, length, row, count, first = _block(blocks, CLS_ONLY)
    head = tl.program_id(1)
    token, query = start * (H * D) + head * D, row * (H * D) + head * D
    keys = first + tl.arange(0, N)
    k = _load(k_THD + token, keys, H * D, length, D, WIDTH)
    v = _load(v_THD + token, keys, H * D, length, D, WIDTH)
    dk, dv = tl.zeros([N, WIDTH], tl.float32), tl.zeros([N, WIDTH], tl.float32)
    begin, end = _range(first, N, after, before, count, M, WINDOW)
    for m in range(begin, end, M):
        queries = m + tl.arange(0, M)
        q, dout, lse, delta = _of_queries(
            q_RHD, dout_RHD, lse_HR, delta_HR, query, row, queries, R, count, H, D, WIDTH
        )
        s = tl.dot(k, tl.trans(q), input_precision="ieee") * base_2_scale
        seen = _seen(queries[None, :], keys[:, None], length, before, after, WINDOW)
        p = tl.exp2(tl.where(seen, s, -float("inf")) - lse[None, :])
        dp = tl.dot(v, tl.trans(dout), input_precision="ieee")
        dropped = p
        if DROPOUT:
            row_keys = _row_keys(keys_T, head_hashes_H, start, queries, count)
            kept = tl.trans(_kept(row_keys, column_hashes, first, threshold, N))
            dropped = tl.where(kept, p, 0.0)
            dp = tl.where(kept, dp * inverse_keep_prob, 0.0)
        dv = tl.dot(dropped.to(dout.dtype), dout, dv, input_precision="ieee")
        ds = p * (dp - delta[None, :])
        dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    _store(dk_THD + token, dk * scale, keys, H * D, length, D, WIDTH)
    _store(dv_THD + token, dv * inverse_keep_prob, keys, H * D, length, D, WIDTH)
