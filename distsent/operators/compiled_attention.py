"""Attention over a packed batch in C++ on a CPU."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import torch
from torch import Tensor

from distsent.operators import library, masks
from distsent.operators.fused_attention import Call, new_rows

KINDS = {torch.float32: "float", torch.bfloat16: "bf16"}


class Attention(ctypes.Structure):
    """The struct of attention.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("examples", "heads", "width", "threads", "cls_only")),
        ("lengths", ctypes.c_void_p),
        *((name, ctypes.c_float) for name in ("base_2_scale", "scale", "inverse_keep_prob")),
        ("before", ctypes.c_int64), ("after", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("keys", "of_heads", "hashes")),
        ("threshold", ctypes.c_int32),
    ]  # fmt: skip


def supports(q: Tensor) -> bool:
    used = library.used() != library.REFERENCE and q.device.type == "cpu"
    return used and q.dtype in KINDS and q.shape[-1] % 2 == 0


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast as torch's own attention does: 4-bit layers return the dtype of their input."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype == torch.float32:
        return x.to(torch.get_autocast_dtype(device))
    return x


def repeat_heads(x: Tensor, H: int) -> Tensor:
    """Keys or values that several queries share, once for each: [T, H, D]."""
    return x if x.shape[1] == H else x.repeat_interleave(H // x.shape[1], dim=1)


class CompiledAttention(torch.autograd.Function):
    """q [R, H, D], k and v [T, H, D] -> [R, H, D], zero for tokens of no example.

    k and v may have fewer heads, which queries share: these are kept once, and repeated again in
    backward. All are cast in here, so that gradients of shared heads add up in the inputs' dtype.
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, call: Call) -> Tensor:
        ctx.dtypes = q.dtype, k.dtype, v.dtype
        q, k, v = (to_autocast_dtype(x).contiguous() for x in (q, k, v))
        lse = q.new_empty((q.shape[1], len(q)), dtype=torch.float32)
        out = new_rows(q, call)
        _run("attention", call, q, *(repeat_heads(x, q.shape[1]) for x in (k, v)), out, lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.call = call
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        (T, few, D), H = k.shape, q.shape[1]
        qkv = q, *(repeat_heads(x, H) for x in (k, v))
        dqkv = [new_rows(x, ctx.call) for x in qkv]
        _run("attention_backward", ctx.call, *qkv, out, grads[0].contiguous(), lse, *dqkv)
        dq, dk, dv = (x.to(dtype) for x, dtype in zip(dqkv, ctx.dtypes, strict=True))
        if few != H:
            dk, dv = (x.view(T, few, H // few, D).sum(2) for x in (dk, dv))
        return dq, dk, dv, None


def _run(name: str, call: Call, q: Tensor, *others: Tensor) -> None:
    R, H, D = q.shape
    lengths = torch.tensor(call.lengths, dtype=torch.int64)
    rate = call.dropout[2] if call.dropout else 0.0
    s = Attention(
        len(lengths), H, D, torch.get_num_threads(), call.cls_only, lengths.data_ptr(),
        call.scale / math.log(2), call.scale, masks.inverse_keep_prob(rate),
        call.before, call.after,
    )  # fmt: skip
    if call.dropout is not None:
        keys_T, site, _ = call.dropout
        # Vectors read up to 16 columns at once.
        words = -(-max(call.lengths) // 16) * 4
        heads = masks.hash_range(masks.HEADS, H, q.device)
        hashes = masks.hash_range(site + 1, words, q.device)
        s.keys, s.of_heads, s.hashes = keys_T.data_ptr(), heads.data_ptr(), hashes.data_ptr()
        s.threshold = masks.threshold(rate)
    pointers = (ctypes.c_void_p(x.data_ptr()) for x in (q, *others))
    function = getattr(library.load(), f"{name}_{KINDS[q.dtype]}")
    function(ctypes.byref(s), *pointers, ctypes.c_int64(R))
