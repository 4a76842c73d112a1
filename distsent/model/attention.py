"""Attention over a packed batch: every token attends to tokens of its own example only.

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

from distsent.batching.packing import PackedBatch
from distsent.model.attention_gradient import PackedAttention
from distsent.model.attention_layout import (
    from_head_layout,
    group_slices,
    seen_blocks,
    to_head_layout,
)
from distsent.model.attention_window import ALL_TOKENS, MaskFunction, Window
from distsent.model.dropout import DropoutContext
from distsent.operators import compiled_attention, fused_attention
from distsent.operators.compiled_attention import repeat_heads, to_autocast_dtype

NAME = "distsent"


def register_attention() -> None:
    """Register with transformers, without an attention mask: the packed batch replaces it."""
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, mask_function_of)


def mask_function_of(*, mask_function: Any, **_: Any) -> MaskFunction | None:
    """In place of a mask: how it would be computed. None: attention to all tokens."""
    return None if mask_function is bidirectional_mask_function else MaskFunction(mask_function)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: MaskFunction | Tensor | None,
    packed_batch: PackedBatch,
    dropout_context: DropoutContext,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_ids: Tensor | None = None,
    use_cache: bool = False,
    **others: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: output [1, T, H, D], no attention weights.

    A mask that the model made itself is ignored: it must hide nothing, as the check of batching
    measures. Raises ValueError for kinds of attention that it does not compute.
    """
    mask = attention_mask if isinstance(attention_mask, MaskFunction) else None
    causal = getattr(module, "is_causal", False) if is_causal is None else is_causal
    unknown = [name for name, value in others.items() if value is not None and value is not False]
    if causal != (mask is not None and mask.causal):
        unknown.append("causal mask unlike its layer")
    if sliding_window is not None and mask is None:
        unknown.append("sliding_window without its mask")
    if unknown:
        raise ValueError(f"packed attention has no {', '.join(unknown)}")
    window = ALL_TOKENS if mask is None else mask.window(packed_batch.longest)
    # Not x[0]: its gradient would be copied into zeros.
    q, k, v = (x.squeeze(0).transpose(0, 1) for x in (query, key, value))
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    rate = dropout if module.training else 0.0
    return attend((q, k, v), packed_batch, dropout_context, scale, rate, window).unsqueeze(0), None


def attend(
    qkv: Iterable[Tensor],
    batch: PackedBatch,
    context: DropoutContext,
    scale: float,
    rate: float,
    window: Window = ALL_TOKENS,
) -> Tensor:
    """Output in the shape of `q`: [T, H, D], or [n, H, D] for queries of first tokens only.

    Keys and values may have fewer heads, which queries share.
    """
    q, k, v = qkv
    # Adapters may leave some of the three frozen.
    training = torch.is_grad_enabled() and (rate > 0 or any(x.requires_grad for x in (q, k, v)))
    dropout = (context.keys_T, context.next_site(), rate) if rate and training else None
    limits = window.before, window.after
    shared = len(q) != len(k), scale, dropout, *limits, batch.tables
    call = fused_attention.Call(batch.lengths, *shared)
    fused = fused_attention.supports(q) and (training or batch.tables is not None)
    assert fused or batch.tables is None, "a recorded pass needs attention's kernels"
    if compiled_attention.supports(q) and not fused:
        return compiled_attention.CompiledAttention.apply(q, k, v, call)
    q, k, v = (to_autocast_dtype(repeat_heads(x, q.shape[1])) for x in (q, k, v))
    if fused:
        return fused_attention.FusedAttention.apply(q, k, v, call)
    if training:
        return PackedAttention.apply(q, k, v, batch, scale, dropout, window)
    score = _score_with_varlen if _varlen_supports(q) else _score_with_sdpa
    return score(q, k, v, batch, scale, window)


def _score_with_sdpa(
    q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float, window: Window
) -> Tensor:
    """Without gradients: torch's fused kernel, group by group."""
    cls_only, (H, D) = len(q) != len(k), q.shape[1:]
    k_layout, q_layout = batch.head_layout(H), batch.head_layout(H, cls_only)
    Q = to_head_layout(q, q_layout)
    K, V = (to_head_layout(x, k_layout) for x in (k, v))
    out = torch.empty_like(Q)
    blocks = seen_blocks(batch, H, window, cls_only)
    for group, seen_by in zip(batch.groups, blocks, strict=True):
        queries, keys = group_slices(group, H, cls_only)
        Qg, Kg, Vg = (x.view(group.rows, H, -1, D) for x in (Q[queries], K[keys], V[keys]))
        out_g = out[queries].view(Qg.shape)
        # The last slots of examples of equal length have no token: without them, no mask.
        tokens = group.shortest if group.equal else group.longest
        for block, seen in seen_by:
            slots = slice(block.keys.start, min(block.keys.stop, tokens))
            all_seen = group.equal and not block.cut
            mask = None if all_seen else ~seen.hidden[..., : slots.stop - slots.start]
            out_g[:, :, block.queries] = F.scaled_dot_product_attention(
                Qg[:, :, block.queries], Kg[:, :, slots], Vg[:, :, slots], mask, scale=scale
            )
    return from_head_layout(out, q_layout, q.shape)


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


def _score_with_varlen(
    q: Tensor, k: Tensor, v: Tensor, batch: PackedBatch, scale: float, window: Window
) -> Tensor:
    """All examples in one call, without gradients.

    Training cannot use the kernel: it has no dropout and sums its gradient in no fixed order.
    """
    from torch.nn.attention.varlen import varlen_attn

    longest, k_ends = max(batch.lengths), batch.cu_seqlens
    q_longest, q_ends = longest, k_ends
    if len(q) != len(k):
        q_longest, q_ends = 1, torch.arange(batch.sequences + 1, dtype=torch.int32, device=q.device)
    # With one split an example's scores do not depend on the other examples, and thus not on the
    # number of workers.
    before, after = (-1 if n >= longest else n for n in (window.before, window.after))
    options: Any = {"scale": scale, "window_size": (before, after), "num_splits": 1}
    out = varlen_attn(q, k, v, q_ends, k_ends, q_longest, longest, **options)
    assert isinstance(out, Tensor)
    return out
