"""Counted operations of other layers than BERT's, against counts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import transformers
from transformers import AutoModelForSequenceClassification

from distsent.batching.flops import count_flops
from distsent.model.flops import measure_flops
from distsent.model.forward import choose_forward
from distsent.model.padded_forward import PaddedForward
from tests import architectures, tiny_models

W, INNER, LAYERS = 32, 64, 2
SIZES: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": W, "num_hidden_layers": LAYERS, "num_attention_heads": 2,
    "intermediate_size": INNER, "pad_token_id": 0, "num_labels": 3,
}  # fmt: skip
SQUARES, HEAD = 4 * W * W, 3 * W
# Configuration, keys, weights per token (in layers), products of pairs per layer, head's weights
CASES: dict[str, tuple[str, dict[str, Any], int, int, int]] = {
    # gated: two matrices lead into the inner layer
    "modernbert": ("ModernBertConfig", {}, SQUARES + 3 * W * INNER, 2, W * W + HEAD),
    # half as many keys and values
    "qwen3": (
        "Qwen3Config", {"num_key_value_heads": 1, "head_dim": 16},
        3 * W * W + 3 * W * INNER, 2, HEAD,
    ),
    # each token's products with 32 positions, of queries and of keys
    "deberta": (
        "DebertaV2Config",
        {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
         "max_relative_positions": 32, "share_att_key": True},
        SQUARES + 2 * W * INNER + 2 * 32 * W, 2, W * W + HEAD,
    ),
    "mpnet": ("MPNetConfig", {}, SQUARES + 2 * W * INNER, 2, W * W + HEAD),
}  # fmt: skip


class Tokenizer:
    pad_token_id = 0


def forward_of(config: Any) -> Any:
    return choose_forward(AutoModelForSequenceClassification.from_config(config), Tokenizer())[0]


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", CASES)
def test_counts_are_those_by_hand(name: str, precision: str) -> None:
    kind, keys, weights, products, head = CASES[name]
    forward = forward_of(getattr(transformers, kind)(**SIZES, **keys))
    found = measure_flops(forward, precision)
    assert found.per_token == 2 * LAYERS * weights
    assert found.per_pair == 2 * LAYERS * products * W
    assert found.per_example == 2 * head
    assert forward.padding == 0.0


def test_pairs_beyond_a_window_are_no_work() -> None:
    config = transformers.ModernBertConfig(**SIZES, local_attention=8, global_attn_every_n_layers=2)
    found = measure_flops(forward_of(config))
    pairs = (20 * 20 + 20 * 8 + 5 * 5 + 5 * 5) / 2  # one layer of the two sees all
    rest = 25 * found.per_token + 2 * found.per_example
    assert found.forward(np.array([20, 5])) == found.per_pair * pairs + rest


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_of_berts_layers_they_are_those_of_the_formula(family: str) -> None:
    model = tiny_models.encoder(family)
    forward, _ = choose_forward(model, Tokenizer())
    found, formula = measure_flops(forward), count_flops(model.config)
    assert (found.per_token, found.per_pair) == (formula.per_token, formula.per_pair)


def test_sizes_may_be_in_the_configuration_of_the_text() -> None:
    text = {**SIZES, "num_key_value_heads": 1, "head_dim": 16}
    plain = transformers.Gemma2Config(**text)
    within = transformers.T5GemmaConfig(encoder=text, decoder=text)
    assert count_flops(within) == count_flops(plain)


def test_a_configuration_without_sizes_fails_no_start() -> None:
    model = architectures.model("perceiver", hidden_size=None)
    with pytest.raises(AttributeError):
        count_flops(model.config)
    found = measure_flops(PaddedForward(model, 0), frozen=True)
    assert found.per_token > 0 and found.passes == 2.0


def test_an_architecture_that_pads_to_a_window_counts_by_the_formula() -> None:
    config = transformers.LongformerConfig(**SIZES, attention_window=[64, 64])
    assert measure_flops(forward_of(config)) == count_flops(config)
