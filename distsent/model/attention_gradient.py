"""Attention over a packed batch in training, with its own backward."""

from typing import Any

import torch
from torch import Tensor

from distsent.batching.packing import LengthGroup, PackedBatch
from distsent.model import dropout as masks
from distsent.model.attention_layout import (
    blocks_of,
    from_head_layout,
    group_slices,
    hidden_slots,
    to_head_layout,
)
from distsent.model.attention_window import ALL_TOKENS, Block, Window

Dropout = tuple[Tensor, int, float]  # keys_T, site, rate


class PackedAttention(torch.autograd.Function):
    """Attention with its own backward, which needs the probabilities and the dropout masks.

    Autograd over slices would fill a full-size tensor with zeros for every group; here each group
    writes its own rows. Scales are multiplied into queries or outputs [T, D] where possible: the
    probabilities [L, L] are much larger.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Any,
        k: Any,
        v: Any,
        batch: PackedBatch,
        scale: float,
        dropout: Dropout | None,
        window: Window = ALL_TOKENS,
    ) -> Tensor:
        cls_only, (H, D), saved = len(q) != len(k), q.shape[1:], []
        k_layout, q_layout = batch.head_layout(H), batch.head_layout(H, cls_only)
        keys_T, site, rate = dropout or (None, 0, 0.0)
        slot_keys = None
        if keys_T is not None:
            slot_keys = masks.keys_per_head(keys_T, H).index_select(0, k_layout.gather_index)
        with torch.autocast(q.device.type, enabled=False):
            Q = to_head_layout(q, q_layout) * scale
            K, V = to_head_layout(k, k_layout), to_head_layout(v, k_layout)
            out = torch.empty_like(Q)
            for group in batch.groups:
                queries, keys = group_slices(group, H, cls_only)
                shape = (group.rows * H, -1, D)
                Qg, Og = Q[queries].view(shape), out[queries].view(shape)
                Kg, Vg = K[keys].view(shape), V[keys].view(shape)
                own_keys = None if slot_keys is None else slot_keys[keys].view(shape[:2])
                for block in blocks_of(group, window, cls_only, q.device):
                    S = torch.bmm(Qg[:, block.queries], Kg[:, block.keys].transpose(1, 2))
                    P, mask = _softmax(S, group, block), None
                    if own_keys is not None:
                        rows, width = own_keys[:, block.queries], block.keys.stop
                        mask = masks.keep_mask(rows, site, width, rate)[..., block.keys]
                        mask = masks.to_multiplier(mask, P.dtype)
                    dropped = P if mask is None else masks.apply_mask(P, mask)
                    torch.bmm(dropped, Vg[:, block.keys], out=Og[:, block.queries])
                    saved += [P, mask]
            if slot_keys is not None:
                out.mul_(masks.inverse_keep_prob(rate))
            out = from_head_layout(out, q_layout, q.shape)
        ctx.save_for_backward(Q, K, V, *saved)
        ctx.batch, ctx.scale, ctx.window, ctx.kv_shape = batch, scale, window, k.shape
        ctx.cls_only, ctx.inverse_keep_prob = cls_only, masks.inverse_keep_prob(rate)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dout,) = grads
        Q, K, V, *saved = ctx.saved_tensors
        H, D = dout.shape[1:]
        k_layout, q_layout = ctx.batch.head_layout(H), ctx.batch.head_layout(H, ctx.cls_only)
        probabilities = zip(saved[::2], saved[1::2], strict=True)
        with torch.autocast(Q.device.type, enabled=False):
            dO = to_head_layout(dout, q_layout) * ctx.inverse_keep_prob
            dO.index_fill_(0, q_layout.pad_index, 0.0)  # a padding slot repeats a real row
            dQ, dK, dV = torch.empty_like(Q), torch.empty_like(K), torch.empty_like(V)
            for group in ctx.batch.groups:
                queries, keys = group_slices(group, H, ctx.cls_only)
                shape = (group.rows * H, -1, D)
                Qg, dQg, dOg = (x[queries].view(shape) for x in (Q, dQ, dO))
                Kg, Vg, dKg, dVg = (x[keys].view(shape) for x in (K, V, dK, dV))
                blocks = blocks_of(group, ctx.window, ctx.cls_only, Q.device)
                add = len(blocks) > 1
                if add:
                    dKg.zero_(), dVg.zero_()
                for block in blocks:
                    (P, mask), q, k = next(probabilities), block.queries, block.keys
                    dropped = P if mask is None else masks.apply_mask(P, mask)
                    _product(dropped.transpose(1, 2), dOg[:, q], dVg[:, k], add)
                    dP = torch.bmm(dOg[:, q], Vg[:, k].transpose(1, 2))
                    dS = _softmax_backward(dP if mask is None else masks.apply_mask(dP, mask), P)
                    torch.bmm(dS, Kg[:, k], out=dQg[:, q])
                    _product(dS.transpose(1, 2), Qg[:, q], dKg[:, k], add)
            dQ.mul_(ctx.scale)
            dq = from_head_layout(dQ, q_layout, dout.shape)
            dk, dv = (from_head_layout(x, k_layout, ctx.kv_shape) for x in (dK, dV))
        return dq, dk, dv, None, None, None, None


def _product(a: Tensor, b: Tensor, out: Tensor, add: bool) -> None:
    if add:
        out.baddbmm_(a, b)
    else:
        torch.bmm(a, b, out=out)


def _softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """Not only for precision: over short rows, torch's softmax in bf16 takes 5 times as long."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def _softmax(S: Tensor, group: LengthGroup, block: Block) -> Tensor:
    wide = S.to(_softmax_dtype(S.dtype))
    # Not -inf: a query without a token may attend to such keys only, and would be NaN.
    least, hidden = torch.finfo(wide.dtype).min, hidden_slots(group, block)
    if hidden is not None:
        wide.view(group.rows, -1, *S.shape[1:]).masked_fill_(hidden, least)
    if group.pad_gL is None and group.shortest < block.keys.stop:
        wide[:, :, group.shortest - block.keys.start :] = least
    return torch.softmax(wide, dim=-1).to(S.dtype)


def _softmax_backward(dP: Tensor, P: Tensor) -> Tensor:
    wide = _softmax_dtype(P.dtype)
    return torch.ops.aten._softmax_backward_data(dP.to(wide), P.to(wide), -1, wide).to(P.dtype)
