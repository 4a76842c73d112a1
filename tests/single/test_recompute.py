"""`train.recompute`: the same bits with less memory, in every architecture, packed and padded."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import PackedBatch, pack
from distsent.model.forward import Forward, autocast
from distsent.model.light_layers import is_gated, lighten_layers
from distsent.model.packed_forward import PackedForward
from distsent.model.padded_forward import EQUAL, SINGLE, TOGETHER, PaddedForward
from distsent.model.recompute import recompute_layers, repeated_layers
from distsent.runtime import heap
from tests import architectures, tiny_models

LENGTHS = (4, 9, 9, 23)
# Each finds or calls its layers, or keeps its randomness, in another way. All others pass, too.
PADDED_ONES = (
    "albert", "bart", "big_bird", "convbert", "deberta-v2", "fnet", "funnel", "gpt2", "llama",
    "modernbert", "opt", "qwen3", "roformer", "squeezebert", "t5", "xlm", "xlnet", "yoso",
)  # fmt: skip


def batch() -> PackedBatch:
    ids = [np.append(np.arange(10, 9 + n), 3) for n in LENGTHS]  # BART reads the last eos token
    rows = np.arange(len(LENGTHS))
    keys_T = dropout_keys(1, 2, rows, np.array(LENGTHS))
    return pack(ids, rows % 3, keys_T=keys_T, step_key=step_key(1, 2))


def gradients(forward: Forward, precision: str) -> dict[str, torch.Tensor]:
    """After two micro-batches: what a first one leaves must not matter to the second."""
    forward.model.train()
    for _ in range(2):
        with autocast(torch.device("cpu"), precision):
            logits = forward(batch())
        torch.nn.functional.cross_entropy(logits.float(), batch().labels_n).backward()
    return {n: p.grad for n, p in forward.model.named_parameters() if p.grad is not None}


def both(build: Any, model: torch.nn.Module, precision: str) -> None:
    plain, again = build(copy.deepcopy(model)), build(copy.deepcopy(model))
    recompute_layers(again.model, again.again)
    calls: list[int] = []
    layer = repeated_layers(again.model)[-1]
    part = next(module for module in layer.modules() if not list(module.children()))
    part.register_forward_hook(lambda *_: calls.append(1))
    expected, found = gradients(plain, precision), gradients(again, precision)
    assert expected.keys() == found.keys() and len(expected) > 3
    wrong = [name for name, grad in expected.items() if not torch.equal(grad, found[name])]
    assert not wrong
    assert len(calls) >= 4, "the layer was computed again"


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_packed_batches(family: str, precision: str) -> None:
    both(PackedForward, tiny_models.encoder(family, dropout=0.2, layers=3), precision)


@pytest.mark.parametrize("name", PADDED_ONES)
def test_padded_batches_of_every_architecture(name: str) -> None:
    model = architectures.model(name)
    model.config.pad_token_id = model.config.pad_token_id or 0
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2
    way = SINGLE if name in ("xlnet", "funnel", "yoso", "nystromformer") else TOGETHER
    both(lambda m: PaddedForward(m, m.config.pad_token_id or 0, way, way), model, "float32")


def test_padded_batches_in_other_ways_and_in_bf16() -> None:
    model = tiny_models.encoder("bert", dropout=0.2)
    for way in (TOGETHER, EQUAL, SINGLE):
        both(lambda m, way=way: PaddedForward(m, 0, way, way), model, "bf16")


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["qwen3", "gemma2", "t5gemma", "mixtral"])
def test_light_layers_keep_less_and_have_the_same_bits(name: str, precision: str) -> None:
    plain = architectures.model(name)
    plain.config.get_text_config().pad_token_id = 0
    light = copy.deepcopy(plain)
    lighten_layers(light)
    kept = [0, 0]
    found = []
    for i, model in enumerate((plain, light)):

        def keep(tensor: torch.Tensor, i: int = i) -> torch.Tensor:
            kept[i] += tensor.nbytes
            return tensor

        forward = PaddedForward(model, 0, EQUAL, EQUAL)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found.append(gradients(forward, precision))
    assert kept[1] < 0.95 * kept[0]
    assert all(torch.equal(grad, found[1][key]) for key, grad in found[0].items())
    gated = [is_gated(module) for module in plain.modules() if hasattr(module, "gate_proj")]
    assert all(gated) == (name != "t5gemma"), "T5Gemma's has dropout"


def test_every_few_layers_of_training_give_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = nn.Module(), []
    model.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2 * heap.LAYERS + 1))
    monkeypatch.setattr(heap, "trim_heap", lambda: calls.append(None))
    heap.trim_between_layers(model)
    x = torch.ones(1, 2)
    with torch.no_grad():
        nn.Sequential(*model.layers)(x)
    assert not calls
    nn.Sequential(*model.layers)(x)
    assert len(calls) == 2
