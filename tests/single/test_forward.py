"""Packed and padded compute the same, and examples in a packed batch do not interact."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers

from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import PackedBatch, pack
from distsent.errors import UserError
from distsent.model import dropout, padded_forward
from distsent.model.attention import attend
from distsent.model.forward import PACKED, choose_ways
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import SIMILAR, SINGLE, PaddedForward
from distsent.operators import masks
from tests import architectures, tiny_models

LENGTHS = np.array([3, 5, 8, 9, 9, 20, 21, 22, 130, 200])


def examples(lengths: np.ndarray = LENGTHS, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(5, tiny_models.VOCABULARY, n) for n in lengths]


def packed_batch(rows: np.ndarray, step: int | None = None) -> PackedBatch:
    keys = None if step is None else dropout_keys(7, step, rows, LENGTHS[rows])
    return pack([examples()[i] for i in rows], np.zeros(len(rows)), keys_T=keys)


ALL = np.arange(len(LENGTHS))


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_packed_equals_padded_forward_and_backward(family: str) -> None:
    model = tiny_models.encoder(family).double()
    packed, padded = (
        PackedForward(copy.deepcopy(model)),
        PaddedForward(model, model.config.pad_token_id),
    )
    batch = packed_batch(ALL)
    with (
        torch.no_grad()
    ):  # evaluation uses torch's kernel, training PackedAttention: both must equal the model
        assert torch.allclose(packed(batch), padded(batch), atol=1e-12)
    a, b = packed(batch), padded(batch)
    assert torch.allclose(a, b, atol=1e-12)
    weights = torch.randn(a.shape, dtype=a.dtype)
    (a * weights).sum().backward()
    (b * weights).sum().backward()
    for (name, p), q in zip(
        packed.model.named_parameters(), padded.model.parameters(), strict=True
    ):
        if q.grad is not None:
            assert torch.allclose(p.grad, q.grad, atol=1e-10), name


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_float32_logits_of_packed_and_padded_are_within_1e5(family: str) -> None:
    model = tiny_models.encoder(family)
    padded = PaddedForward(copy.deepcopy(model), model.config.pad_token_id)
    with torch.no_grad():
        assert (
            PackedForward(model)(packed_batch(ALL)) - padded(packed_batch(ALL))
        ).abs().max() < 1e-5


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_torchs_varlen_kernel_gets_the_same_attention(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It needs a GPU: its arguments must bind to its signature and mean the model's attention."""
    import inspect

    from torch.nn.attention import varlen

    from distsent.model import attention

    signature, calls = inspect.signature(varlen.varlen_attn), []

    def kernel(*args: object, **kwargs: object) -> torch.Tensor:
        given = signature.bind(*args, **kwargs).arguments
        q, k, v, ends_q, ends_k = (
            given[name] for name in ("query", "key", "value", "cu_seq_q", "cu_seq_k")
        )
        assert ends_q.dtype == ends_k.dtype == torch.int32 and (len(q), len(k)) == (
            ends_q[-1],
            ends_k[-1],
        )
        assert (given["max_q"], given["max_k"]) == (ends_q.diff().max(), ends_k.diff().max())
        calls.append(len(q) == len(k))
        asking, asked = (
            [x.split(ends.diff().tolist()) for x in xs]
            for xs, ends in (((q,), ends_q), ((k, v), ends_k))
        )
        rows = [
            [x.transpose(0, 1) for x in example] for example in zip(*asking, *asked, strict=True)
        ]
        return torch.cat(
            [
                torch.nn.functional.scaled_dot_product_attention(
                    *x, scale=given["scale"]
                ).transpose(0, 1)
                for x in rows
            ]
        )

    model = tiny_models.encoder(family).double()
    packed = PackedForward(copy.deepcopy(model))
    monkeypatch.setattr(attention, "_varlen_supports", lambda q: True)
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    batch = pack([examples()[i] for i in ALL], np.zeros(len(ALL)), round_shapes=False)
    with torch.no_grad():
        padded = PaddedForward(model, model.config.pad_token_id)(batch)
        assert torch.allclose(packed(batch), padded, atol=1e-12)
    assert calls and (family == "albert" or calls[-1] is False), (
        "the last layer has queries of first tokens only"
    )


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_examples_do_not_affect_each_other(family: str) -> None:
    """The gradient of an example's logits with respect to other examples' tokens is zero."""
    model = tiny_models.encoder(family, dropout=0.1).train()
    packed, held = PackedForward(model), {}

    def hold(module: object, args: object, out: torch.Tensor) -> None:
        out.retain_grad()
        held["x"] = out

    model.get_input_embeddings().register_forward_hook(hold)
    packed(packed_batch(ALL, step=0))[3].sum().backward()
    felt = held["x"].grad[0].abs().sum(-1)
    inside = slice(LENGTHS[:3].sum(), LENGTHS[:4].sum())
    assert felt[inside].sum() > 0
    felt[inside] = 0
    assert felt.sum() == 0


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_dropout_depends_on_the_example_and_the_step_alone(family: str) -> None:
    """The same masks with any other examples in any order; different masks in another step."""
    packed = PackedForward(tiny_models.encoder(family, dropout=0.2).double().train())
    some = np.array([9, 3, 0, 6])
    together = packed(packed_batch(ALL, step=4))
    assert torch.allclose(together[some], packed(packed_batch(some, step=4)), atol=1e-12)
    assert not torch.allclose(together, packed(packed_batch(ALL, step=5)), atol=1e-3)


def test_the_attention_gradient_is_right() -> None:
    """Against finite differences, with dropout; three examples share a padded group."""
    from distsent.model.attention import PackedAttention

    lengths = np.array([2, 3, 3, 5])
    batch = pack(
        [np.zeros(n, dtype=int) for n in lengths],
        np.zeros(4),
        keys_T=dropout_keys(0, 0, np.arange(4), lengths),
    )
    q, k, v = (torch.randn(13, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(3))
    assert torch.autograd.gradcheck(
        lambda *x: PackedAttention.apply(*x, batch, 0.5, (batch.keys_T, 1, 0.3)), (q, k, v)
    )


@pytest.mark.parametrize("cls_only", [False, True])
def test_bf16_and_float32_have_the_same_dropout(cls_only: bool) -> None:
    """bf16 masks have their own form: output and gradients equal float32's up to rounding."""
    batch, found = packed_batch(ALL, step=3), {}
    torch.manual_seed(1)
    rows = len(batch.ids_T)
    queries = batch.sequences if cls_only else rows
    values = [torch.randn(n, 4, 8).bfloat16() for n in (queries, rows, rows)]
    for dtype in (torch.bfloat16, torch.float32):
        q, k, v = parts = [x.to(dtype, copy=True).requires_grad_() for x in values]
        context = dropout.DropoutContext()
        context.start_pass(batch.keys_T, batch.cls_index_n)
        out = attend((q, k, v), batch, context, 0.3, 0.4)
        out.float().square().sum().backward()
        found[dtype] = [out.float(), *(x.grad.float() for x in parts)]
    for half, full in zip(found[torch.bfloat16], found[torch.float32], strict=True):
        assert (half - full).abs().max() < 0.03 * full.abs().max()


def test_dropout_keeps_its_share_and_columns_tokens_and_sites_are_independent() -> None:
    keys = dropout_keys(1, 2, np.arange(64), np.full(64, 32))
    kept = masks.keep_mask(keys, 1, 384, 0.1)
    n = kept.numel()
    assert abs(kept.float().mean() - 0.9) < 5 * np.sqrt(0.09 / n)
    x = kept.double() - kept.double().mean()
    for other in (
        masks.keep_mask(keys, 2, 384, 0.1),
        kept.roll(1, 0),
        kept.roll(1, 1),
        kept.roll(2, 1),
        kept.roll(4, 1),
    ):
        y = other.double() - other.double().mean()
        assert abs((x * y).mean() / 0.09) < 5 / np.sqrt(n)
    assert kept.double().mean(0).std() < 1.3 * np.sqrt(0.09 / len(keys))
    assert kept.double().mean(1).std() < 1.3 * np.sqrt(0.09 / 384)


def ways(model: transformers.PreTrainedModel, training: bool = True) -> tuple[str, str]:
    return choose_ways(model, "auto", training)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_encoders_that_can_run_packed_do(family: str) -> None:
    assert ways(tiny_models.encoder(family, dropout=0.1)) == (PACKED, PACKED)


def shift(hidden: torch.Tensor) -> torch.Tensor:
    return hidden + 1e-3 * hidden.roll(1, 1)


def own_positions(module: torch.nn.Module, args: object, kwargs: dict[str, object]) -> object:
    return args, {**kwargs, "position_ids": None}


def further_positions(module: torch.nn.Module, args: object, kwargs: dict[str, object]) -> object:
    positions = kwargs.get("position_ids")
    return args, {**kwargs, "position_ids": None if positions is None else positions + 1}


def with_kind(**kind: object) -> Callable[[torch.nn.Module], object]:
    """Attention that the model passes on as arguments, for the implementation to compute."""

    def add(module: torch.nn.Module, args: object, kwargs: dict[str, object]) -> object:
        return args, {**kwargs, **kind}

    def change(bert: torch.nn.Module) -> None:
        for layer in bert.encoder.layer:
            layer.attention.self.register_forward_pre_hook(add, with_kwargs=True)

    return change


def causal(bert: torch.nn.Module) -> None:
    for layer in bert.encoder.layer:
        layer.attention.self.is_causal = True


def after_embeddings(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[object], object]:
    return lambda bert: bert.embeddings.register_forward_hook(lambda m, a, out: f(out))


def in_last_layer(f: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[object], object]:
    """Where the packed forward does not call the layer, but a part of its own."""
    return lambda bert: bert.encoder.layer[-1].attention.self.value.register_forward_hook(
        lambda m, a, out: f(out)
    )


def before_embeddings(hook: Callable[..., object]) -> Callable[[object], object]:
    return lambda bert: bert.embeddings.register_forward_pre_hook(hook, with_kwargs=True)


WRONG = {
    "token shift, as in ConvBERT": after_embeddings(shift),
    "token shift in the last layer": in_last_layer(shift),
    "mixing along the row, as in FNet": after_embeddings(
        lambda x: x + 1e-3 * x.mean(1, keepdim=True)
    ),
    "positions of its own": before_embeddings(own_positions),
    "positions after its padding index, as in RoBERTa": before_embeddings(further_positions),
    "relative positions, as in MPNet and T5": with_kind(position_bias=torch.zeros(1)),
    "a window, as in ModernBERT": with_kind(sliding_window=4),
    "soft-capped scores, as in Gemma": with_kind(softcap=5.0),
    "causal, as in GPT-2": causal,
}


def wrong_encoder(
    change: Callable[[object], object], dropout: float = 0.0
) -> transformers.PreTrainedModel:
    """A BERT that is changed wherever it is built, with fresh weights as before training."""

    class Changed(transformers.BertForSequenceClassification):
        def __init__(self, config: transformers.BertConfig) -> None:
            super().__init__(config)
            change(self.bert)

    return Changed(tiny_models.encoder("bert", dropout=dropout).config).eval()


@pytest.mark.parametrize("name", WRONG)
def test_an_encoder_that_is_not_equal_in_packed_batches_is_always_refused(name: str) -> None:
    """At any state of torch's generator, which stays as it is."""
    model = wrong_encoder(WRONG[name])
    for seed in range(3):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        assert ways(model, training=False)[0] != PACKED
        assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match=r"model.packed = 'always': Changed computes other scores"):
        choose_ways(model, "always", training=False)


def test_dropout_that_is_not_hashed_by_token_does_not_run_packed() -> None:
    """Its masks are those of the whole row, so they would depend on the other examples."""

    def dropped(bert: torch.nn.Module) -> object:
        functional = torch.nn.functional.dropout
        return bert.embeddings.register_forward_hook(lambda m, a, x: functional(x, 0.1, m.training))

    assert ways(wrong_encoder(dropped, dropout=0.1)) == (SIMILAR, SIMILAR)
    assert ways(wrong_encoder(dropped, dropout=0.1), training=False)[0] == PACKED


@pytest.mark.parametrize("name", ["mpnet", "deberta", "deberta-v2"])
def test_encoders_with_relative_positions_share_calls_of_similar_lengths(name: str) -> None:
    model = architectures.model(name)
    assert ways(model) == (SIMILAR, SIMILAR)
    with pytest.raises(UserError, match=r"model.packed = 'always'"):
        choose_ways(model, "always", training=True)


def test_a_step_with_similar_lengths_pads_little_and_changes_nothing() -> None:
    """Against all examples in one call: logits and the masks of dropout."""
    model = tiny_models.encoder("bert", dropout=0.2).double().train()
    similar, together = (
        PaddedForward(model, 0, way, way) for way in (SIMILAR, padded_forward.TOGETHER)
    )
    batch = pack(
        [examples()[i] for i in ALL],
        np.zeros(len(ALL)),
        keys_T=dropout_keys(7, 3, ALL, LENGTHS),
        step_key=step_key(7, 3),
    )
    assert torch.allclose(similar(batch), together(batch), atol=1e-12)
    assert 0 < similar.padding <= 0.1 < 0.7 < together.padding
    model.eval()
    assert torch.allclose(similar(packed_batch(ALL)), together(packed_batch(ALL)), atol=1e-12)


def test_whatever_else_is_random_is_the_same_for_an_example_alone() -> None:
    """OPT skips layers at random: its examples train one at a time, with their own generator."""
    model = architectures.model("opt")
    model.config.dropout = model.config.layerdrop = 0.5
    assert ways(model) == (SIMILAR, SINGLE)
    model.model.decoder.layerdrop = 0.5
    forward = PaddedForward(model.train(), 1, *ways(model))
    some = np.array([1, 2, 4])
    batch = [
        pack(
            [examples()[i] for i in rows],
            np.zeros(len(rows)),
            keys_T=dropout_keys(7, 3, rows, LENGTHS[rows]),
            step_key=step_key(7, 3),
        )
        for rows in (some, some[1:])
    ]
    assert torch.equal(forward(batch[0])[1:], forward(batch[1]))


def test_experts_whose_router_draws_noise_train_one_at_a_time() -> None:
    model = architectures.model("bert")
    assert ways(model)[1] != SINGLE
    model.config.router_jitter_noise = 1e-12  # too small to be measured
    assert ways(model)[1] == SINGLE
