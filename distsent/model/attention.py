"""Attention over a stream: every token attends to the tokens of its own example and to nothing else.

Registered with transformers as the attention implementation "distsent"; the stream arrives as a keyword argument that the
models hand down. Shapes: queries, keys, values [1, H, T, D] from the models, [T, H, D] here (letters: stream.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from distsent.model.dropout import Flow, boost, heads, keep
from distsent.model.stream import Group, Stream

NAME = "distsent"


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    stream: Stream,
    flow: Flow,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """The models' attention interface: output [1, T, H, D] and no weights."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else q.shape[-1] ** -0.5
    return attend(q, k, v, stream, flow, scale, dropout if module.training else 0.0).unsqueeze(0), None


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, stream: Stream, flow: Flow, scale: float, rate: float
) -> torch.Tensor:
    """Queries [T, H, D], or [n, H, D] where only each example's first token asks; keys and values [T, H, D]. Like `q`."""
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        keys_T, site = (flow.tokens, flow.next_site()) if rate else (None, 0)
        return _Packed.apply(q, k, v, stream.groups, scale, rate, keys_T, site)
    return _score(q, k, v, stream.groups, scale)


def _take(x_THD: torch.Tensor, group: Group) -> torch.Tensor:
    """A group's rows as [g * H, L, D]."""
    H, D = x_THD.shape[1:]
    if group.count == 1:
        return x_THD[group.start : group.stop].transpose(0, 1)
    x = x_THD[group.start : group.stop] if group.take_gL is None else x_THD[group.take_gL.view(-1)]
    return x.reshape(group.count, group.longest, H, D).transpose(1, 2).reshape(-1, group.longest, D)


def _put(out_THD: torch.Tensor, group: Group, x: torch.Tensor) -> None:
    """Write [g * H, L, D] to the group's rows; what stands at pads is dropped."""
    H, D = out_THD.shape[1:]
    x = x.view(group.count, H, group.longest, D).transpose(1, 2)
    if group.put_T is not None:
        x = x.reshape(-1, H, D)[group.put_T]
    rows = out_THD[group.start : group.stop]
    rows.copy_(x.reshape(rows.shape))


def _take_queries(x: torch.Tensor, group: Group, firsts: bool) -> torch.Tensor:
    """As `_take`; or, of rows that are one an example, [g * H, 1, D]."""
    if not firsts:
        return _take(x, group)
    return x[group.first : group.first + group.count].reshape(-1, 1, x.shape[-1])


def _put_queries(out: torch.Tensor, group: Group, x: torch.Tensor, firsts: bool) -> None:
    if not firsts:
        return _put(out, group, x)
    rows = out[group.first : group.first + group.count]
    rows.copy_(x.view(rows.shape))


def _score(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, groups: tuple[Group, ...], scale: float) -> torch.Tensor:
    """Without gradients: torch's fused kernel, group by group."""
    out, firsts = torch.empty(q.shape, dtype=q.dtype, device=q.device), len(q) != len(k)
    H, D = q.shape[1:]
    for group in groups:
        Q = _take_queries(q, group, firsts).view(group.count, H, -1, D)
        K, V = (_take(x, group).view(group.count, H, -1, D) for x in (k, v))
        mask = None if group.pad_gL is None else ~group.pad_gL[:, None, None, :]
        O = F.scaled_dot_product_attention(Q, K, V, attn_mask=mask, scale=scale)  # noqa: E741
        _put_queries(out, group, O.reshape(group.count * H, -1, D), firsts)
    return out


class _Packed(torch.autograd.Function):
    """Attention with its gradient written out: what is saved are the probabilities and what dropout multiplied them with.

    Autograd over slices would fill a whole stream with zeros for every group; here each group writes its own rows.
    """

    @staticmethod
    def forward(ctx: Any, q: Any, k: Any, v: Any, groups: Any, scale: float, rate: float, keys_T: Any, site: int) -> torch.Tensor:
        firsts = len(q) != len(k)
        with torch.autocast(q.device.type, enabled=False):
            out, kept = torch.empty(q.shape, dtype=q.dtype, device=q.device), []
            for group in groups:
                P = torch.bmm(_take_queries(q, group, firsts), _take(k, group).transpose(1, 2)).mul_(scale)
                if group.pad_gL is not None:
                    P.view(group.count, -1, *P.shape[1:]).masked_fill_(group.pad_gL[:, None, None, :], -torch.inf)
                P = torch.softmax(P, dim=-1)
                mask = _mask(group, keys_T, site, rate, P)
                _put_queries(out, group, torch.bmm(P if mask is None else P * mask, _take(v, group)), firsts)
                kept += [P, mask]
        ctx.save_for_backward(q, k, v, *kept)
        ctx.groups, ctx.scale = groups, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        (dout,) = grads
        q, k, v, *kept = ctx.saved_tensors
        firsts = len(q) != len(k)
        with torch.autocast(q.device.type, enabled=False):
            dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
            for i, group in enumerate(ctx.groups):
                P, mask = kept[2 * i], kept[2 * i + 1]
                dO = _take_queries(dout, group, firsts)
                if group.pad_gL is not None and not firsts:  # pads repeat a real row: its gradient must not count twice
                    dO = dO.masked_fill(_pads(group, dO), 0.0)
                _put(dv, group, torch.bmm((P if mask is None else P * mask).transpose(1, 2), dO))
                dP = torch.bmm(dO, _take(v, group).transpose(1, 2))
                if mask is not None:
                    dP.mul_(mask)
                dS = torch.ops.aten._softmax_backward_data(dP, P, -1, P.dtype).mul_(ctx.scale)
                _put_queries(dq, group, torch.bmm(dS, _take(k, group)), firsts)
                _put(dk, group, torch.bmm(dS.transpose(1, 2), _take_queries(q, group, firsts)))
        return dq, dk, dv, None, None, None, None, None


def _pads(group: Group, x: torch.Tensor) -> torch.Tensor:
    """Pads of a group as [g * H, L, 1]."""
    assert group.pad_gL is not None
    H = x.shape[0] // group.count
    return group.pad_gL[:, None, :].expand(-1, H, -1).reshape(x.shape[0], group.longest, 1)


def _mask(group: Group, keys_T: torch.Tensor | None, site: int, rate: float, P: torch.Tensor) -> torch.Tensor | None:
    """What dropout multiplies the probabilities [g * H, L or 1, L] with; None when nothing is dropped."""
    if keys_T is None:
        return None
    H = P.shape[0] // group.count
    index = slice(group.start, group.stop) if group.take_gL is None else group.take_gL
    keys_gL = keys_T[index].view(group.count, group.longest)[:, : P.shape[1]]
    keys_gHL = keys_gL.unsqueeze(1) ^ heads(H, keys_T.device)
    return keep(keys_gHL.view(-1, P.shape[1]), site, group.longest, rate).to(P.dtype).mul_(boost(rate))


def register() -> None:
    """Make the implementation known to transformers, with no mask at all: the stream says who may see whom."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
