"""Attention over a stream: every token attends to the tokens of its own example and to nothing else.

Registered with transformers as the attention implementation "distsent"; the stream arrives as a keyword argument that the
models hand down. Shapes: queries, keys, values [1, H, T, D] from the models, [T, H, D] here (letters: stream.py).
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from distsent.batching.packing import HeadLayout, LengthGroup, PackedBatch
from distsent.model.dropout import (
    DropoutContext,
    inverse_keep_prob,
    keep_mask,
    mask_of,
    masked,
    of_heads,
)

NAME = "distsent"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    stream: PackedBatch,
    flow: DropoutContext,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The models' attention interface: output [1, T, H, D] and no weights."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    return attend(q, k, v, stream, flow, scale, dropout if module.training else 0.0).unsqueeze(
        0
    ), None


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    stream: PackedBatch,
    flow: DropoutContext,
    scale: float,
    rate: float,
) -> torch.Tensor:
    """Queries [T, H, D], or [n, H, D] where only each example's first token asks; keys and values [T, H, D]. Like `q`."""
    q, k, v = (_half(x) for x in (q, k, v))
    if torch.is_grad_enabled() and (
        rate or any(x.requires_grad for x in (q, k, v))
    ):  # adapters may leave some of them frozen
        keys, site = (flow.tokens, flow.next_site()) if rate else (None, 0)
        return _Packed.apply(q, k, v, stream, scale, rate, keys, site)
    return (_score_on_gpu if _kernel_takes(q) else _score)(q, k, v, stream, scale)


def _half(x: torch.Tensor) -> torch.Tensor:
    """In the width of the autocast around, as torch's own attention: 4-bit layers answer in the width that they were asked in."""
    kind = x.device.type
    return (
        x.to(torch.get_autocast_dtype(kind))
        if torch.is_autocast_enabled(kind) and x.dtype == torch.float32
        else x
    )


def _lay(x: torch.Tensor, heads: HeadLayout) -> torch.Tensor:
    """[T, H, D] in the layout of attention. One copy a tensor and layer: advanced indexing costs six times as much."""
    return x.reshape(-1, x.shape[-1]).index_select(0, heads.take)


def _back(x: torch.Tensor, heads: HeadLayout, shape: torch.Size) -> torch.Tensor:
    """What `_lay` laid out, as [T, H, D] again; zero for tokens that belong to nobody."""
    out = x.new_empty(shape)
    rows = out.view(-1, shape[-1])
    torch.index_select(x, 0, heads.put, out=rows[: len(heads.put)])
    rows[len(heads.put) :] = 0
    return out


def _slices(group: LengthGroup, H: int, firsts: bool) -> tuple[slice, slice]:
    """A group's rows among the queries, and among the keys and values."""
    places = slice(group.start * H, group.stop * H)
    return (
        slice(group.start_first * H, (group.start_first + group.count) * H) if firsts else places
    ), places


def _score(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, stream: PackedBatch, scale: float
) -> torch.Tensor:
    """Without gradients: torch's fused kernel, group by group."""
    firsts, (H, D) = len(q) != len(k), q.shape[1:]
    heads, own = stream.heads(H), stream.heads(H, firsts)
    Q, K, V = _lay(q, own), _lay(k, heads), _lay(v, heads)
    out = torch.empty_like(Q)
    for group in stream.groups:
        mine, places = _slices(group, H, firsts)
        Qg, Kg, Vg = (x.view(group.count, H, -1, D) for x in (Q[mine], K[places], V[places]))
        mask = None
        if group.pad_gL is not None:
            mask = ~group.pad_gL[:, None, None, :]
        elif group.shortest < group.longest:
            Kg, Vg = Kg[:, :, : group.shortest], Vg[:, :, : group.shortest]
        out[mine] = F.scaled_dot_product_attention(Qg, Kg, Vg, attn_mask=mask, scale=scale).reshape(
            -1, D
        )
    return _back(out, own, q.shape)


def _kernel_takes(q: torch.Tensor) -> bool:
    """Whether torch's kernel for sequences of unequal length can be used: it wants half width."""
    return q.is_cuda and q.dtype.itemsize == 2 and q.shape[-1] % 8 == 0 and _has_kernel(q.device)


@cache
def _has_kernel(gpu: torch.device) -> bool:
    if (
        torch.version.hip
        or torch.cuda.get_device_capability(gpu) < (8, 0)
        or not find_spec("torch.nn.attention.varlen")
    ):
        return False
    from torch.nn.attention.varlen import varlen_attn

    return "num_splits" in signature(varlen_attn).parameters


def _score_on_gpu(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, stream: PackedBatch, scale: float
) -> torch.Tensor:
    """All examples in one call. Not for training: the kernel knows no dropout, and adds its gradient up in no fixed order."""
    from torch.nn.attention.varlen import varlen_attn

    n, longest = len(stream), max(stream.lengths)
    firsts = len(q) != len(k)
    ends = torch.arange(n + 1, dtype=torch.int32, device=q.device) if firsts else stream.cu_seqlens
    # One split: an example's scores then do not depend on its neighbours, and so not on the number of workers.
    out = varlen_attn(
        q,
        k,
        v,
        ends,
        stream.cu_seqlens,
        1 if firsts else longest,
        longest,
        scale=scale,
        num_splits=1,
    )
    assert isinstance(out, torch.Tensor)
    return out


class _Packed(torch.autograd.Function):
    """Attention with its gradient written out: what is saved are the probabilities and what dropout kept of them.

    Autograd over slices would fill a whole stream with zeros for every group; here each group writes its own rows. Everything that
    can be multiplied into queries or outputs [T, D] is: the probabilities [L, L] are the large thing here.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Any,
        k: Any,
        v: Any,
        stream: PackedBatch,
        scale: float,
        rate: float,
        keys_T: torch.Tensor | None,
        site: int,
    ) -> torch.Tensor:
        firsts, (H, D) = len(q) != len(k), q.shape[1:]
        heads, own, kept = stream.heads(H), stream.heads(H, firsts), []
        keys = None if keys_T is None else _keys(keys_T, heads, H)
        with torch.autocast(q.device.type, enabled=False):
            Q, K, V = _lay(q, own) * scale, _lay(k, heads), _lay(v, heads)
            out = torch.empty_like(Q)
            for group in stream.groups:
                mine, places = _slices(group, H, firsts)
                Qg, Kg, Vg = (
                    x.view(group.count * H, -1, D) for x in (Q[mine], K[places], V[places])
                )
                P = _softmax(torch.bmm(Qg, Kg.transpose(1, 2)), group)
                mask = None
                if keys is not None:
                    rows = keys[places].view(group.count * H, -1)[:, : P.shape[1]]
                    mask = mask_of(keep_mask(rows, site, group.longest, rate), P.dtype)
                torch.bmm(P if mask is None else masked(P, mask), Vg, out=out[mine].view(Qg.shape))
                kept += [P, mask]
            if keys is not None:
                out.mul_(inverse_keep_prob(rate))
            out = _back(out, own, q.shape)
        ctx.save_for_backward(Q, K, V, *kept)
        ctx.stream, ctx.scale, ctx.inverse_keep_prob = (
            stream,
            scale,
            inverse_keep_prob(rate) if keys is not None else 1.0,
        )
        ctx.tokens, ctx.firsts = k.shape, firsts
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (dout,) = grads
        Q, K, V, *kept = ctx.saved_tensors
        firsts, (H, D) = ctx.firsts, dout.shape[1:]
        heads, own = ctx.stream.heads(H), ctx.stream.heads(H, firsts)
        with torch.autocast(Q.device.type, enabled=False):
            dO = (_lay(dout, own) * ctx.inverse_keep_prob).index_fill_(
                0, own.pads, 0.0
            )  # pads repeat a real row: it must not count twice
            dQ, dK, dV = torch.empty_like(Q), torch.empty_like(K), torch.empty_like(V)
            for i, group in enumerate(ctx.stream.groups):
                mine, places = _slices(group, H, firsts)
                shape = (group.count * H, -1, D)
                P, mask = kept[2 * i], kept[2 * i + 1]
                dOg, dKg, dVg = dO[mine].view(shape), dK[places].view(shape), dV[places].view(shape)
                torch.bmm((P if mask is None else masked(P, mask)).transpose(1, 2), dOg, out=dVg)
                dP = torch.bmm(dOg, V[places].view(shape).transpose(1, 2))
                dS = _softmax_backward(dP if mask is None else masked(dP, mask), P)
                torch.bmm(dS, K[places].view(shape), out=dQ[mine].view(shape))
                torch.bmm(dS.transpose(1, 2), Q[mine].view(shape), out=dKg)
            dQ.mul_(ctx.scale)
            dq, dk, dv = (
                _back(dQ, own, dout.shape),
                _back(dK, heads, ctx.tokens),
                _back(dV, heads, ctx.tokens),
            )
        return dq, dk, dv, None, None, None, None, None


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What exponentials are taken in. Not only for precision: over short rows torch's softmax in bf16 takes five times as long."""
    return torch.float32 if dtype.itemsize == 2 else dtype


def _softmax(S: torch.Tensor, group: LengthGroup) -> torch.Tensor:
    wide = S.to(_wide(S.dtype))
    if group.pad_gL is not None:
        wide.view(group.count, -1, *S.shape[1:]).masked_fill_(
            group.pad_gL[:, None, None, :], -torch.inf
        )
    elif group.shortest < group.longest:
        wide[:, :, group.shortest :] = -torch.inf
    return torch.softmax(wide, dim=-1).to(S.dtype)


def _softmax_backward(dP: torch.Tensor, P: torch.Tensor) -> torch.Tensor:
    wide = _wide(P.dtype)
    return torch.ops.aten._softmax_backward_data(dP.to(wide), P.to(wide), -1, wide).to(P.dtype)


def _keys(keys_T: torch.Tensor, heads: HeadLayout, H: int) -> torch.Tensor:
    """Dropout's key of every row of the layout: its token's, told apart by head."""
    return (keys_T[:, None] ^ of_heads(H, keys_T.device)).view(-1).index_select(0, heads.take)


def register() -> None:
    """Make the implementation known to transformers, with no mask at all: the stream says who may see whom."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
