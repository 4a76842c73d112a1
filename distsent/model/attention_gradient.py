"""Attention over a packed batch in training, with its own backward, in plain torch.

The reference of the operators in operators/fused_attention.py and operators/compiled_attention.py.
"""

from typing import Any

import torch
from torch import Tensor

from distsent.batching.packing import PackedBatch
from distsent.model.attention_layout import (
    from_head_layout,
    group_slices,
    seen_blocks,
    to_head_layout,
)
from distsent.model.attention_window import ALL_TOKENS, Window
from distsent.operators import masks
from distsent.operators.softmax_dropout import (
    Dropout,
    softmax,
    softmax_dropout,
    softmax_dropout_backward,
)

SiteDropout = tuple[Tensor, int, float]  # keys_T, site, rate


class PackedAttention(torch.autograd.Function):
    """Attention with its own backward, which computes probabilities and dropout masks again.

    Kept probabilities would be most of what long texts keep: 16 MB per head and layer for 2,000
    tokens in float32. Autograd over slices would fill a full-size tensor with zeros for every
    group; here each group writes its own rows. Scales are multiplied into queries or outputs [T, D]
    where possible: the probabilities [L, L] are much larger.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Any,
        k: Any,
        v: Any,
        batch: PackedBatch,
        scale: float,
        dropout: SiteDropout | None,
        window: Window = ALL_TOKENS,
    ) -> Tensor:
        cls_only, (H, D) = len(q) != len(k), q.shape[1:]
        k_layout, q_layout = batch.head_layout(H), batch.head_layout(H, cls_only)
        blocks = seen_blocks(batch, H, window, cls_only)
        keys_T, site, rate = dropout or (None, 0, 0.0)
        slot_keys = None
        if keys_T is not None:
            slot_keys = masks.keys_per_head(keys_T, H).index_select(0, k_layout.gather_index)
        with torch.autocast(q.device.type, enabled=False):
            Q = to_head_layout(q, q_layout) * scale
            K, V = to_head_layout(k, k_layout), to_head_layout(v, k_layout)
            out = torch.empty_like(Q)
            for group, seen_by in zip(batch.groups, blocks, strict=True):
                queries, keys = group_slices(group, H, cls_only)
                shape = (group.rows * H, -1, D)
                Qg, Og = Q[queries].view(shape), out[queries].view(shape)
                Kg, Vg = K[keys].view(shape), V[keys].view(shape)
                for block, seen in seen_by:
                    q_at, k_at = (slice(None), block.queries), (slice(None), block.keys)
                    S = torch.bmm(Qg[q_at], Kg[k_at].transpose(1, 2))
                    own = _dropout(slot_keys, keys, len(Qg), block.queries, site, rate)
                    torch.bmm(softmax_dropout(S, seen, own), Vg[k_at], out=Og[q_at])
            if slot_keys is not None:
                out.mul_(masks.inverse_keep_prob(rate))
            out = from_head_layout(out, q_layout, q.shape)
        ctx.save_for_backward(Q, K, V, slot_keys)
        ctx.batch, ctx.scale, ctx.blocks, ctx.kv_shape = batch, scale, blocks, k.shape
        ctx.cls_only, ctx.site, ctx.rate = cls_only, site, rate
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dout,) = grads
        Q, K, V, slot_keys = ctx.saved_tensors
        H, D = dout.shape[1:]
        k_layout, q_layout = ctx.batch.head_layout(H), ctx.batch.head_layout(H, ctx.cls_only)
        with torch.autocast(Q.device.type, enabled=False):
            dO = to_head_layout(dout, q_layout) * masks.inverse_keep_prob(ctx.rate)
            dO.index_fill_(0, q_layout.pad_index, 0.0)  # a padding slot repeats a real row
            dQ, dK, dV = torch.empty_like(Q), torch.zeros_like(K), torch.zeros_like(V)
            for group, seen_by in zip(ctx.batch.groups, ctx.blocks, strict=True):
                queries, keys = group_slices(group, H, ctx.cls_only)
                shape = (group.rows * H, -1, D)
                Qg, dQg, dOg = (x[queries].view(shape) for x in (Q, dQ, dO))
                Kg, Vg, dKg, dVg = (x[keys].view(shape) for x in (K, V, dK, dV))
                for block, seen in seen_by:
                    q_at, k_at = (slice(None), block.queries), (slice(None), block.keys)
                    P = softmax(torch.bmm(Qg[q_at], Kg[k_at].transpose(1, 2)), seen)
                    dP = torch.bmm(dOg[q_at], Vg[k_at].transpose(1, 2))
                    own = _dropout(slot_keys, keys, len(Qg), block.queries, ctx.site, ctx.rate)
                    dS, dropped = softmax_dropout_backward(P, dP, seen, own)
                    torch.bmm(dS, Kg[k_at], out=dQg[q_at])
                    dKg[k_at].baddbmm_(dS.transpose(1, 2), Qg[q_at])
                    dVg[k_at].baddbmm_(dropped.transpose(1, 2), dOg[q_at])
            dQ.mul_(ctx.scale)
            dq = from_head_layout(dQ, q_layout, dout.shape)
            dk, dv = (from_head_layout(x, k_layout, ctx.kv_shape) for x in (dK, dV))
        return dq, dk, dv, None, None, None, None


def _dropout(
    slot_keys: Tensor | None, keys: slice, matrices: int, queries: slice, site: int, rate: float
) -> Dropout | None:
    """The dropout of probabilities. `keys`: the group's rows among the keys."""
    if slot_keys is None:
        return None
    return slot_keys[keys].view(matrices, -1)[:, queries], site, rate
