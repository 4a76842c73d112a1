"""Attention over a packed batch: every token attends to the tokens of its own example only.

Registered with transformers as the attention implementation "distsent". Models pass the packed
batch down as a keyword argument. Shapes: queries, keys, values are [1, H, T, D] from the models,
[T, H, D] here (letters: batching/packing.py).
"""

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import bidirectional_mask_function

from distsent.batching.packing import HeadLayout, LengthGroup, PackedBatch
from distsent.model import dropout as masks
from distsent.model.dropout import DropoutContext

NAME = "distsent"
Dropout = tuple[Tensor, int, float]  # keys_T, site, rate


def register_attention() -> None:
    """Register with transformers, without an attention mask: the packed batch replaces it."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, no_mask)


def no_mask(*, mask_function: Any, **_: Any) -> None:
    """Raises ValueError for causal attention, windows and other masks inside an example."""
    if mask_function is not bidirectional_mask_function:
        raise ValueError("packed attention is to all tokens of an example")


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    packed_batch: PackedBatch,
    dropout_context: DropoutContext,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,
    use_cache: bool = False,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: output [1, T, H, D], no attention weights.

    Raises ValueError for kinds of attention that it does not compute.
    """
    causal = getattr(module, "is_causal", False) and others.get("is_causal") is not False
    unknown = [name for name, value in others.items() if value is not None and value is not False]
    if causal or unknown:
        raise ValueError(f"packed attention has no {', '.join(unknown) or 'causal mask'}")
    qkv = tuple(x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rate = dropout if module.training else 0.0
    return attend(qkv, packed_batch, dropout_context, scale, rate).unsqueeze(0), None


def attend(
    qkv: Iterable[Tensor], batch: PackedBatch, context: DropoutContext, scale: float, rate: float
) -> Tensor:
    """Output in the shape of `q`: [T, H, D], or [n, H, D] for queries of first tokens only."""
    q, k, v = (_to_autocast_dtype(x) for x in qkv)
    # Adapters may leave some of the three frozen.
    if torch.is_grad_enabled() and (rate or any(x.requires_grad for x in (q, k, v))):
        dropout = (context.keys_T, context.next_site(), rate) if rate else None
        return PackedAttention.apply(q, k, v, batch, scale, dropout)
    score = _score_with_varlen if _varlen_supports(q) else _score_with_sdpa
    return score(q, k, v, batch, scale)


def _to_autocast_dtype(x: Tensor) -> Tensor:
    """Cast as torch's own attention does: 4-bit layers return the dtype of their input."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype == torch.float32:
        return x.to(torch.get_autocast_dtype(device))
    return x


def _to_head_layout(x: Tensor, layout: HeadLayout) -> Tensor:
    """[T, H, D] in attention's layout. One copy: advanced indexing costs six times as much."""
    return x.reshape(-1, x.shape[-1]).index_select(0, layout.gather_index)


def _from_head_layout(x: Tensor, layout: HeadLayout, shape: torch.Size) -> Tensor:
    """The inverse: [T, H, D], zero for filler tokens."""
    out = x.new_empty(shape)
    rows, real = out.view(-1, shape[-1]), len(layout.scatter_index)
    torch.index_select(x, 0, layout.scatter_index, out=rows[:real])
    rows[real:] = 0
    return out


def _group_slices(group: LengthGroup, H: int, cls_only: bool) -> tuple[slice, slice]:
    """A group's rows among the queries, and among the keys and values."""
    keys = slice(group.start * H, group.stop * H)
    first_tokens = slice(group.cls_start * H, (group.cls_start + group.rows) * H)
    return first_tokens if cls_only else keys, keys


def _score_with_sdpa(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float) -> Tensor:
    """Without gradients: torch's fused kernel, group by group."""
    cls_only, (H, D) = len(q) != len(k), q.shape[1:]
    k_layout, q_layout = batch.head_layout(H), batch.head_layout(H, cls_only)
    Q = _to_head_layout(q, q_layout)
    K, V = (_to_head_layout(x, k_layout) for x in (k, v))
    out = torch.empty_like(Q)
    for group in batch.groups:
        queries, keys = _group_slices(group, H, cls_only)
        Qg, Kg, Vg = (x.view(group.rows, H, -1, D) for x in (Q[queries], K[keys], V[keys]))
        mask = None
        if group.pad_gL is not None:
            mask = ~group.pad_gL[:, None, None, :]
        elif group.shortest < group.longest:
            Kg, Vg = Kg[:, :, : group.shortest], Vg[:, :, : group.shortest]
        group_out = F.scaled_dot_product_attention(Qg, Kg, Vg, attn_mask=mask, scale=scale)
        out[queries] = group_out.reshape(-1, D)
    return _from_head_layout(out, q_layout, q.shape)


def _varlen_supports(q: Tensor) -> bool:
    """Whether torch's kernel for sequences of unequal lengths takes q: it needs 16-bit floats."""
    return q.is_cuda and q.dtype.itemsize == 2 and q.shape[-1] % 8 == 0 and _has_varlen(q.device)


@cache
def _has_varlen(gpu: torch.device) -> bool:
    unsupported = torch.version.hip or torch.cuda.get_device_capability(gpu) < (8, 0)
    if unsupported or not find_spec("torch.nn.attention.varlen"):
        return False
    from torch.nn.attention.varlen import varlen_attn

    return "num_splits" in signature(varlen_attn).parameters


def _score_with_varlen(q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float) -> Tensor:
    """All examples in one call, without gradients.

    Training cannot use the kernel: it has no dropout and sums its gradient in no fixed order.
    """
    from torch.nn.attention.varlen import varlen_attn

    longest, k_ends = max(batch.lengths), batch.cu_seqlens
    q_longest, q_ends = longest, k_ends
    if len(q) != len(k):
        q_longest, q_ends = 1, torch.arange(len(batch) + 1, dtype=torch.int32, device=q.device)
    # With one split an example's scores do not depend on the other examples, and thus not on the
    # number of workers.
    out = varlen_attn(q, k, v, q_ends, k_ends, q_longest, longest, scale=scale, num_splits=1)
    assert isinstance(out, Tensor)
    return out


class PackedAttention(torch.autograd.Function):
    """Attention with its own backward, which needs the probabilities and the dropout masks.

    Autograd over slices would fill a full-size tensor with zeros for every group; here each group
    writes its own rows. Scales are multiplied into queries or outputs [T, D] where possible: the
    probabilities [L, L] are much larger.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Any, k: Any, v: Any, batch: PackedBatch, scale: float, dropout: Dropout | None
    ) -> Tensor:
        cls_only, (H, D), saved = len(q) != len(k), q.shape[1:], []
        k_layout, q_layout = batch.head_layout(H), batch.head_layout(H, cls_only)
        keys_T, site, rate = dropout or (None, 0, 0.0)
        slot_keys = None
        if keys_T is not None:
            slot_keys = masks.keys_per_head(keys_T, H).index_select(0, k_layout.gather_index)
        with torch.autocast(q.device.type, enabled=False):
            Q = _to_head_layout(q, q_layout) * scale
            K, V = _to_head_layout(k, k_layout), _to_head_layout(v, k_layout)
            out = torch.empty_like(Q)
            for group in batch.groups:
                queries, keys = _group_slices(group, H, cls_only)
                shape = (group.rows * H, -1, D)
                Qg, Kg, Vg = (x.view(shape) for x in (Q[queries], K[keys], V[keys]))
                P = _softmax(torch.bmm(Qg, Kg.transpose(1, 2)), group)
                mask = None
                if slot_keys is not None:
                    rows = slot_keys[keys].view(group.rows * H, -1)[:, : P.shape[1]]
                    mask = masks.keep_mask(rows, site, group.longest, rate)
                    mask = masks.to_multiplier(mask, P.dtype)
                dropped = P if mask is None else masks.apply_mask(P, mask)
                torch.bmm(dropped, Vg, out=out[queries].view(Qg.shape))
                saved += [P, mask]
            if slot_keys is not None:
                out.mul_(masks.inverse_keep_prob(rate))
            out = _from_head_layout(out, q_layout, q.shape)
        ctx.save_for_backward(Q, K, V, *saved)
        ctx.batch, ctx.scale, ctx.kv_shape, ctx.cls_only = batch, scale, k.shape, cls_only
        ctx.inverse_keep_prob = masks.inverse_keep_prob(rate)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (dout,) = grads
        Q, K, V, *saved = ctx.saved_tensors
        H, D = dout.shape[1:]
        k_layout, q_layout = ctx.batch.head_layout(H), ctx.batch.head_layout(H, ctx.cls_only)
        with torch.autocast(Q.device.type, enabled=False):
            dO = _to_head_layout(dout, q_layout) * ctx.inverse_keep_prob
            dO.index_fill_(0, q_layout.pad_index, 0.0)  # a padding slot repeats a real row
            dQ, dK, dV = torch.empty_like(Q), torch.empty_like(K), torch.empty_like(V)
            for i, group in enumerate(ctx.batch.groups):
                queries, keys = _group_slices(group, H, ctx.cls_only)
                shape = (group.rows * H, -1, D)
                P, mask = saved[2 * i], saved[2 * i + 1]
                dOg, dKg, dVg = (x.view(shape) for x in (dO[queries], dK[keys], dV[keys]))
                dropped = P if mask is None else masks.apply_mask(P, mask)
                torch.bmm(dropped.transpose(1, 2), dOg, out=dVg)
                dP = torch.bmm(dOg, V[keys].view(shape).transpose(1, 2))
                dS = _softmax_backward(dP if mask is None else masks.apply_mask(dP, mask), P)
                torch.bmm(dS, K[keys].view(shape), out=dQ[queries].view(shape))
                torch.bmm(dS.transpose(1, 2), Q[queries].view(shape), out=dKg)
            dQ.mul_(ctx.scale)
            dq = _from_head_layout(dQ, q_layout, dout.shape)
            dk, dv = (_from_head_layout(x, k_layout, ctx.kv_shape) for x in (dK, dV))
        return dq, dk, dv, None, None, None


def _softmax_dtype(dtype: torch.dtype) -> torch.dtype:
    """Not only for precision: over short rows, torch's softmax in bf16 takes 5 times as long."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def _softmax(S: Tensor, group: LengthGroup) -> Tensor:
    wide = S.to(_softmax_dtype(S.dtype))
    if group.pad_gL is not None:
        per_row = wide.view(group.rows, -1, *S.shape[1:])
        per_row.masked_fill_(group.pad_gL[:, None, None, :], -torch.inf)
    elif group.shortest < group.longest:
        wide[:, :, group.shortest :] = -torch.inf
    return torch.softmax(wide, dim=-1).to(S.dtype)


def _softmax_backward(dP: Tensor, P: Tensor) -> Tensor:
    wide = _softmax_dtype(P.dtype)
    return torch.ops.aten._softmax_backward_data(dP.to(wide), P.to(wide), -1, wide).to(P.dtype)
