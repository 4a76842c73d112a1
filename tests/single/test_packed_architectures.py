"""Architectures with windows, rotary positions, causal attention: packed equals padded."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel
from transformers.masking_utils import (
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_bidirectional_mask_function,
    sliding_window_causal_mask_function,
)

from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import PackedBatch, pack
from distsent.model.attention_gradient import PackedAttention
from distsent.model.attention_window import MaskFunction, Window
from distsent.model.forward import PACKED, choose_ways
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import PaddedForward
from tests import tiny_configurations, tiny_models

# Beyond each window, and beyond a block of queries; equal lengths, and unequal ones in a group.
LENGTHS = np.array([1, 3, 5, 8, 9, 9, 20, 21, 22, 130, 200, 200])
PAD = 0
WINDOW: dict[str, Any] = {"sliding_window": 6}
SLIDING = {**WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
# By transformers' names and a variant: what the configuration needs beyond the usual.
KINDS: dict[str, dict[str, Any]] = {
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
    "modernbert mean": {"local_attention": 8, "classifier_pooling": "mean"},
    "modernbert long window": {"local_attention": 300},
    "eurobert mean of logits": GROUPED,
    "eurobert mean": {**GROUPED, "classifier_pooling": "mean"},
    "eurobert first": {**GROUPED, "classifier_pooling": "bos"},
    "nomic_bert": {},
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen2 window": {**GROUPED, **SLIDING, "use_sliding_window": True},
    "qwen3": GROUPED,
    "mistral window": {**GROUPED, **WINDOW},
    "gemma": GROUPED,
    "gemma3_text window": {**GROUPED, **SLIDING, "query_pre_attn_scalar": 8},
    "gpt2": {},
    "phi": {},
    "opt": {"word_embed_proj_dim": 16, "ffn_dim": 32, "dropout": 0.0},
}  # fmt: skip


class Float64(TorchFunctionMode):
    """Computes in float64 what architectures compute in float32: rounding hides no difference."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        wide = {torch.float32: torch.float64}
        args = tuple(wide.get(x, x) if isinstance(x, torch.dtype) else x for x in args)
        given = {
            key: wide.get(x, x) if isinstance(x, torch.dtype) else x
            for key, x in (kwargs or {}).items()
        }
        return (torch.Tensor.double if func is torch.Tensor.float else func)(*args, **given)


def model(kind: str, dropout: float = 0.0) -> PreTrainedModel:
    name, *_ = kind.split()
    rates = {
        key: dropout
        for key in (
            "attention_dropout", "attention_probs_dropout_prob", "hidden_dropout_prob",
            "mlp_dropout", "embedding_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop",
        )
    }  # fmt: skip
    options = {**tiny_configurations.USUAL, **rates, **KINDS[kind]}
    options |= {"max_position_embeddings": 258, "num_labels": 3, "pad_token_id": PAD}
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **options)
    made = AutoModelForSequenceClassification.from_config(config).double().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    made = [rng.integers(5, tiny_models.VOCABULARY, n) for n in LENGTHS]
    made[4][-2:] = PAD  # a text may hold the padding token, and end with it
    made[6][3] = made[8][0] = PAD
    return made


def batch(rows: np.ndarray, step: int | None = None) -> PackedBatch:
    keys = None if step is None else dropout_keys(7, step, rows, LENGTHS[rows])
    return pack([texts()[i] for i in rows], np.zeros(len(rows)), keys_T=keys)


ALL = np.arange(len(LENGTHS))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_equals_padded_and_alone_forward_and_backward(kind: str) -> None:
    plain = model(kind)
    packed, padded = PackedForward(copy.deepcopy(plain)), PaddedForward(plain, PAD)
    with Float64():
        with torch.no_grad():  # evaluation uses torch's kernel, training PackedAttention
            scored = packed(batch(ALL))
            for i in ALL:
                alone = plain(input_ids=torch.from_numpy(texts()[i])[None]).logits[0]
                assert torch.allclose(scored[i], alone, rtol=0, atol=1e-10), LENGTHS[i]
        a, b = packed(batch(ALL)), padded(batch(ALL))
        assert torch.allclose(a, b, rtol=0, atol=1e-10) and torch.allclose(a, scored, atol=1e-10)
        weights = torch.randn(a.shape, dtype=a.dtype)
        (a * weights).sum().backward()
        (b * weights).sum().backward()
    trained = 0
    for (name, p), q in zip(packed.model.named_parameters(), plain.parameters(), strict=True):
        if q.grad is not None:
            trained += 1
            assert torch.allclose(p.grad, q.grad, rtol=1e-10, atol=1e-10), name
    assert trained > 10


@pytest.mark.parametrize("kind", KINDS)
def test_the_check_finds_the_architecture_exact(kind: str) -> None:
    assert choose_ways(model(kind), "auto", training=True) == (PACKED, PACKED)


@pytest.mark.parametrize("kind", ["modernbert", "modernbert mean", "nomic_bert", "gpt2", "qwen3"])
def test_dropout_depends_on_the_example_and_the_step_alone(kind: str) -> None:
    packed = PackedForward(model(kind, dropout=0.2).train())
    some = np.array([9, 3, 0, 6])
    with Float64():
        together = packed(batch(ALL, step=4))
        assert torch.allclose(together[some], packed(batch(some, step=4)), atol=1e-10)
        assert not torch.allclose(together, packed(batch(ALL, step=5)), atol=1e-3)


@pytest.mark.parametrize(
    ("function", "window"),
    [
        (causal_mask_function, Window(after=0)),
        (sliding_window_causal_mask_function(6), Window(5, 0)),
        (sliding_window_bidirectional_mask_function(6), Window(6, 6)),
        (sliding_window_causal_mask_function(400), Window(after=0)),
        (chunked_causal_mask_function(6, torch.zeros(1, dtype=torch.long)), None),
        (chunked_causal_mask_function(150, torch.zeros(1, dtype=torch.long)), None),
    ],
)
def test_the_window_of_a_mask_function_is_found_or_refused(
    function: Any, window: Window | None
) -> None:
    if window is not None:
        assert MaskFunction(function).window(200) == window
        assert MaskFunction(function).window(1) == Window()
    else:
        with pytest.raises(ValueError, match="or to a window"):
            MaskFunction(function).window(200)


@pytest.mark.parametrize("window", [Window(after=0), Window(2, 1), Window(130, 0)])
def test_the_gradient_within_a_window_is_right(window: Window) -> None:
    """Against finite differences, with dropout; examples of several blocks and a padded group."""
    lengths = np.array([2, 3, 3, 5, 9, 140 if window.before == 130 else 10])
    keys_T = dropout_keys(0, 0, np.arange(len(lengths)), lengths)
    ids = [np.zeros(n, dtype=int) for n in lengths]
    made = pack(ids, np.zeros(len(ids)), keys_T=keys_T)
    q, k, v = (
        torch.randn(len(made.ids_T), 1, 2, dtype=torch.float64, requires_grad=True)
        for _ in range(3)
    )
    assert torch.autograd.gradcheck(
        lambda *x: PackedAttention.apply(*x, made, 0.5, (made.keys_T, 1, 0.3), window),
        (q, k, v),
        fast_mode=True,
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("window", [Window(after=0), Window(6, 6)])
def test_bf16_and_float32_have_the_same_masks(window: Window, dtype: torch.dtype) -> None:
    made = batch(ALL, step=3)
    torch.manual_seed(1)
    values = [torch.randn(len(made.ids_T), 2, 8).bfloat16() for _ in range(3)]
    found = []
    for kind in (torch.float64, dtype):
        parts = [x.to(kind, copy=True).requires_grad_() for x in values]
        out = PackedAttention.apply(*parts, made, 0.3, (made.keys_T, 1, 0.4), window)
        out.float().square().sum().backward()
        found.append([out.float(), *(x.grad.float() for x in parts)])
    for exact, rounded in zip(*found, strict=True):
        limit = 0.03 if dtype == torch.bfloat16 else 1e-5
        assert (exact - rounded).abs().max() < limit * exact.abs().max()
