"""Linear layers with a kept 16-bit copy of their weights: the bits of autocast, never stale."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distsent.batching.batch_plan import BatchPlan
from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import PackedBatch, pack
from distsent.errors import UserError
from distsent.job import load_job
from distsent.job.schema import OptimSection, TrainSection
from distsent.model import adapter
from distsent.model.classifier import token_embedding
from distsent.model.forward import Forward, autocast
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import TOGETHER, PaddedForward
from distsent.model.recompute import recompute_layers
from distsent.operators.linear import use_onednn
from distsent.training import half_weights
from distsent.training.flat_parameters import FlatParameters
from distsent.training.train_step import TrainStep
from tests import architectures, fixtures, tiny_models
from tests.single.test_train_step import make, step_of

CPU = torch.device("cpu")
LENGTHS = (4, 9, 9, 23)
PADDED_ONES = ("bart", "deberta-v2", "gpt2", "llama", "qwen3", "t5", "xlnet")


def batch(lengths: tuple[int, ...]) -> PackedBatch:
    ids = [np.append(np.arange(10, 9 + n), 3) for n in lengths]  # BART reads the last eos token
    rows = np.arange(len(lengths))
    keys_T = dropout_keys(1, 2, rows, np.array(lengths))
    return pack(ids, rows % 3, keys_T=keys_T, step_key=step_key(1, 2))


def gradient(forward: Forward, precision: str, half: bool) -> tuple[Tensor, int]:
    """The flat gradient of two micro-batches, and how many parameters have a copy."""
    forward.model.train()
    flat = FlatParameters(forward.model, token_embedding(forward.model))
    if half:
        flat.use_half(forward.model, half_weights.DTYPES[precision])
    with flat.half.fresh() if flat.half else nullcontext():
        for lengths in (LENGTHS, LENGTHS[1:]):
            packed = batch(lengths)
            with autocast(CPU, precision):
                logits = forward(packed)
            (1000 * F.cross_entropy(logits.float(), packed.labels_n)).backward()
            if flat.half:
                flat.half.add_grads(slice(0, flat.size))
                flat.half.end_pass()
    return flat.grads, len(flat.half._copies.of) if flat.half else 0


def compare(build: Callable[[nn.Module], Forward], model: nn.Module, precision: str) -> int:
    found, copies = gradient(build(copy.deepcopy(model)), precision, half=True)
    expected, _ = gradient(build(model), precision, half=False)
    assert torch.equal(found, expected) and expected.abs().sum() > 0
    return copies


@pytest.mark.parametrize("precision", half_weights.DTYPES)
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_gradients_have_the_bits_of_autocast(family: str, precision: str) -> None:
    """ALBERT's layers share their weights: these sum in 16 bits, as autocast sums them."""

    def onednn(model: nn.Module) -> PackedForward:
        use_onednn(model)
        return PackedForward(model)

    copies = compare(PackedForward, tiny_models.encoder(family, dropout=0.1), precision)
    assert copies == compare(onednn, tiny_models.encoder(family, dropout=0.1), precision) >= 16


@pytest.mark.parametrize("family", PADDED_ONES)
def test_padded_architectures_too(family: str) -> None:
    """Some read a linear layer's weight themselves, or its dtype, or tie it to an embedding."""
    model = architectures.model(family)
    model.config.pad_token_id = 0
    compare(lambda m: PaddedForward(m, 0, TOGETHER, TOGETHER), model, "bf16")


@pytest.mark.parametrize("options", [[], ["adapter.bits=16"], ["adapter.bits=4"]])
def test_with_updates_of_a_frozen_model(options: list[str], tmp_path: Path) -> None:
    tiny_models.encoder("bert", dropout=0.1).save_pretrained(tmp_path)
    settings = [f"model.name={tmp_path}", "adapter.kind=lora", "data.source=demo", *options]
    model = adapter.build_model(load_job(None, settings), None, fixtures.LABELS, "bf16").model
    for p in model.parameters():
        if p.requires_grad:
            p.data.normal_(0, 0.1)
    assert compare(PackedForward, model, "bf16") >= 8


def test_layers_computed_again_read_the_same_copy() -> None:
    def again(model: nn.Module) -> PackedForward:
        forward = PackedForward(model)
        recompute_layers(model, forward.again)
        return forward

    compare(again, tiny_models.encoder("bert", dropout=0.1), "bf16")


class Odd(nn.Module):
    """Layers that are used twice, not always, without bias, and whose weight is read from outside.

    One computes in float32, within autocast.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.twice, self.rarely, self.read = (nn.Linear(8, 8) for _ in range(3))
        self.unbiased, self.precise = nn.Linear(8, 8, bias=False), nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)

    def forward(self, x: Tensor, rarely: bool) -> Tensor:
        x = self.unbiased(self.twice(self.twice(x)).relu())
        x = self.rarely(x) if rarely else x
        x = F.linear(self.read(x), self.read.weight)
        with torch.autocast("cpu", enabled=False):
            return self.precise(x.float())


def test_odd_uses_of_layers() -> None:
    """The second pass leaves a layer out, whose gradients of the first must not count again."""
    x, found = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(1)), []
    for half in (False, True):
        model = Odd()
        flat = FlatParameters(model, None)
        if half:
            flat.use_half(model, torch.bfloat16)
        for _ in range(2):
            with flat.half.fresh() if flat.half else nullcontext():
                for rarely in (True, False, True):
                    with autocast(CPU, "bf16"):
                        y = model(x, rarely)
                    y.square().sum().backward()
                    for start in range(0, flat.size if flat.half else 0, 50):
                        flat.half.add_grads(slice(start, start + 50))
                    if flat.half:
                        flat.half.end_pass()
        found.append(flat.split(flat.grads))
    expected, ours = found
    # autocast sums both uses in 16 bits, and here only each of them is rounded.
    a, b = expected.pop("read.weight"), ours.pop("read.weight")
    assert torch.allclose(a, b, atol=float(a.abs().max()) / 128) and not torch.equal(a, b)
    assert [name for name in ours if not torch.equal(ours[name], expected[name])] == []
    assert [name for name in ours if not ours[name].any()] == ["never.weight", "never.bias"]


def steps(precision: str, half: bool = True) -> tuple[TrainStep, BatchPlan]:
    model, tokens = tiny_models.encoder("bert", dropout=0.1), tiny_models.tokens(40)
    train, optim = TrainSection(batch_size=8), OptimSection(lr=1e-2)
    made, plan = make(model, tokens, train, optim, budget=90)
    with patch.object(half_weights, "DTYPES", half_weights.DTYPES if half else {}):
        return step_of(made.forward, made.flat, optim, 100, precision=precision), plan


@pytest.mark.parametrize("precision", half_weights.DTYPES)
def test_steps_have_the_bits_of_autocast(precision: str) -> None:
    (found, plan), (expected, _) = (steps(precision, half) for half in (True, False))
    for number in range(8):
        assert found(plan.batch(number)) == expected(plan.batch(number))
    assert found.flat.half and not expected.flat.half
    assert torch.equal(found.flat.values, expected.flat.values)


def test_the_copy_is_never_stale() -> None:
    """After a checkpoint or another worker's weights, a failed step, and between two steps."""
    step, plan = steps("bf16")
    step(plan.batch(0))
    kept = [x.clone() for x in (step.flat.values, *step.flat.moments.values())]

    def go_back() -> None:
        for now, then in zip((step.flat.values, *step.flat.moments.values()), kept, strict=True):
            # As Horovod writes: torch counts no new version.
            now.numpy()[:] = then.numpy()
        step.optimizer.resume(1)

    results = []
    for fails in (False, True, False):
        go_back()
        if fails:
            with (
                patch.object(step.reducer, "end_pass", side_effect=MemoryError),
                pytest.raises(UserError),
            ):
                step(plan.batch(1))
        results.append((step(plan.batch(1)), step(plan.batch(2)), step.flat.values.clone()))
    assert results[0][:2] == results[1][:2] == results[2][:2]
    assert torch.equal(results[0][2], results[1][2]) and torch.equal(results[0][2], results[2][2])

    model = step.forward.model.eval()
    plain = PackedForward(tiny_models.encoder("bert", dropout=0.1))
    plain.model.load_state_dict(model.state_dict())
    with torch.inference_mode(), autocast(CPU, "bf16"):
        assert torch.equal(step.forward(batch(LENGTHS)), plain(batch(LENGTHS)))


def test_a_pass_keeps_no_graph() -> None:
    """A GPU refuses to record a pass that meets nodes of the one before."""
    forward = PackedForward(tiny_models.encoder("bert", dropout=0.1))
    forward.model.train()
    flat = FlatParameters(forward.model, token_embedding(forward.model))
    flat.use_half(forward.model, torch.bfloat16)
    assert flat.half is not None
    with flat.half.fresh():
        with autocast(CPU, "bf16"):
            loss = forward(batch(LENGTHS)).sum()
        loss.backward()
        del loss
        last = flat.half._copies._last
        assert last is not None and last[0]() is None
    assert flat.half._copies._last is None


def test_state_dicts_hold_float32_weights_alone() -> None:
    step, _ = steps("bf16")
    state = step.forward.model.state_dict()
    assert state.keys() == tiny_models.encoder("bert").state_dict().keys()
    assert {x.dtype for x in state.values()} == {torch.float32}
