"""The last layer, for first tokens only: the head reads no other row, so none is computed.

In the last layer only keys and values need every token; queries, output and feed-forward need one
token per example. That saves a seventh of a six-layer encoder's arithmetic, and the head sees the
same bits.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distsent.model.attention import attend

# An attention module, the names of its query, key and value layers, and the rest of the layer:
# a function of the attention's output and the layer's input, both [1, n, width].
Parts = tuple[Any, tuple[str, str, str], Callable[..., torch.Tensor]]


def cls_only_last_layer(stack: nn.Module) -> bool:
    """Make an encoder's last layer return [1, n, width]. False for an unknown architecture."""
    layers = getattr(stack, "layer", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        return False
    parts = _bert_parts(layers[-1]) or _distilbert_parts(layers[-1])
    if parts is None:
        return False
    own, names, finish = parts

    def forward(
        hidden: torch.Tensor, *args: Any, packed_batch: Any, dropout_context: Any, **_: Any
    ) -> torch.Tensor:
        first = hidden[:, packed_batch.cls_index_n]
        query, key, value = (getattr(own, name) for name in names)
        qkv = query(first), key(hidden), value(hidden)
        per_head = tuple(x[0].view(x.shape[1], -1, own.attention_head_size) for x in qkv)
        rate = own.dropout.p if own.training else 0.0
        out = attend(per_head, packed_batch, dropout_context, own.scaling, rate)
        return finish(out.reshape(qkv[0].shape), first)

    layers[-1].forward = forward
    return True


def _has(module: Any, *names: str) -> bool:
    return all(hasattr(module, name) for name in names)


def _bert_parts(layer: Any) -> Parts | None:
    """Also RoBERTa's."""
    block: Any = getattr(layer, "attention", None)
    if not _has(block, "self", "output") or not _has(layer, "feed_forward_chunk"):
        return None

    def finish(out: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        return layer.feed_forward_chunk(block.output(out, first))

    return block.self, ("query", "key", "value"), finish


def _distilbert_parts(layer: Any) -> Parts | None:
    own: Any = getattr(layer, "attention", None)
    names = "q_lin", "k_lin", "v_lin"
    if not _has(own, *names, "out_lin") or not _has(layer, "sa_layer_norm"):
        return None

    def finish(out: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
        x = layer.sa_layer_norm(own.out_lin(out) + first)
        return layer.output_layer_norm(layer.ffn(x) + x)

    return own, names, finish
