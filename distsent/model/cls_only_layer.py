"""The last layer, for first tokens only: the head reads no other row, so none is computed.

In the last layer only keys and values need every token; queries, output and feed-forward need one
token per example. That saves a seventh of a six-layer encoder's arithmetic, and the head sees the
same bits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distsent.model.attention import QKV, attend

Forward = Callable[..., torch.Tensor]


def cls_only_last_layer(stack: nn.Module) -> bool:
    """Make an encoder's last layer return [1, n, width]. False for an unknown architecture."""
    layers = getattr(stack, "layer", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        return False
    last = layers[-1]
    forward = _bert_forward(last) or _distilbert_forward(last)
    if forward is not None:
        last.forward = forward
    return forward is not None


def _has(module: Any, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)


def _attend(own: Any, qkv: QKV, batch: Any, context: Any) -> torch.Tensor:
    """Output [1, n, width] of queries [1, n, width] on keys and values [1, T, width]."""
    per_head = tuple(x[0].view(x.shape[1], -1, own.attention_head_size) for x in qkv)
    rate = own.dropout.p if own.training else 0.0
    return attend(per_head, batch, context, own.scaling, rate).reshape(qkv[0].shape)


def _bert_forward(layer: Any) -> Forward | None:
    """Also RoBERTa's."""
    block: Any = getattr(layer, "attention", None)
    if not _has(block, "self", "output") or not _has(layer, "feed_forward_chunk"):
        return None
    own = block.self

    def forward(
        hidden: torch.Tensor, *args: Any, packed_batch: Any, dropout_context: Any, **_: Any
    ) -> torch.Tensor:
        first = hidden[:, packed_batch.cls_index_n]
        qkv = own.query(first), own.key(hidden), own.value(hidden)
        out = _attend(own, qkv, packed_batch, dropout_context)
        return layer.feed_forward_chunk(block.output(out, first))

    return forward


def _distilbert_forward(layer: Any) -> Forward | None:
    own: Any = getattr(layer, "attention", None)
    names = ("q_lin", "k_lin", "v_lin", "out_lin")
    if not _has(own, *names) or not _has(layer, "sa_layer_norm"):
        return None

    def forward(
        hidden: torch.Tensor, *args: Any, packed_batch: Any, dropout_context: Any, **_: Any
    ) -> torch.Tensor:
        first = hidden[:, packed_batch.cls_index_n]
        qkv = own.q_lin(first), own.k_lin(hidden), own.v_lin(hidden)
        out = _attend(own, qkv, packed_batch, dropout_context)
        first = layer.sa_layer_norm(own.out_lin(out) + first)
        return layer.output_layer_norm(layer.ffn(first) + first)

    return forward
