"""The last layer, for first tokens only: nobody reads its other rows, so nobody need compute them.

Of a last layer's weights only keys and values meet every token; queries, output and feed-forward meet one token an example. That is
a seventh of a six-layer encoder's arithmetic, left out without changing a bit of what the head sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from distsent.model.attention import attend

Layer = Callable[..., torch.Tensor]


def cls_only_last_layer(stack: nn.Module) -> bool:
    """Let the last layer of `stack` (an encoder) give one row an example, [1, n, width]. False where it is of an unknown make."""
    layers = getattr(stack, "layer", None)
    if not isinstance(layers, nn.ModuleList) or len(layers) == 0:
        return False
    last = layers[-1]
    run = _bert(last) or _distilbert(last)
    if run is not None:
        last.forward = run
    return run is not None


def _heads(x_Td: torch.Tensor, width: int) -> torch.Tensor:
    return x_Td.view(len(x_Td), -1, width)


def _bert(layer: nn.Module) -> Layer | None:
    """BERT's and RoBERTa's layer."""
    attention: Any = getattr(layer, "attention", None)
    if not all(hasattr(attention, name) for name in ("self", "output")) or not hasattr(
        layer, "feed_forward_chunk"
    ):
        return None
    own, block = attention.self, cast(Any, layer)

    def forward(hidden: torch.Tensor, *args: Any, stream: Any, flow: Any, **_: Any) -> torch.Tensor:
        firsts = hidden[:, stream.cls_index_n]
        q, k, v = own.query(firsts), own.key(hidden), own.value(hidden)
        q, k, v = (_heads(x[0], own.attention_head_size) for x in (q, k, v))
        out = attend(q, k, v, stream, flow, own.scaling, own.dropout.p if own.training else 0.0)
        return block.feed_forward_chunk(attention.output(out.reshape(firsts.shape), firsts))

    return forward


def _distilbert(layer: nn.Module) -> Layer | None:
    own: Any = getattr(layer, "attention", None)
    if not all(
        hasattr(own, name) for name in ("q_lin", "k_lin", "v_lin", "out_lin")
    ) or not hasattr(layer, "sa_layer_norm"):
        return None
    block = cast(Any, layer)

    def forward(hidden: torch.Tensor, *args: Any, stream: Any, flow: Any, **_: Any) -> torch.Tensor:
        firsts = hidden[:, stream.cls_index_n]
        q, k, v = own.q_lin(firsts), own.k_lin(hidden), own.v_lin(hidden)
        q, k, v = (_heads(x[0], own.attention_head_size) for x in (q, k, v))
        out = attend(q, k, v, stream, flow, own.scaling, own.dropout.p if own.training else 0.0)
        first = block.sa_layer_norm(own.out_lin(out.reshape(firsts.shape)) + firsts)
        return block.output_layer_norm(block.ffn(first) + first)

    return forward
