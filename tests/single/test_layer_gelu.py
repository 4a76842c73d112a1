"""Layers whose bias and GELU are one operator on a GPU. Its kernels: interpreted_rows.py."""

import pytest
import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from distsent.model.layer_gelu import fuse_gelus, is_gelu_of_dense
from distsent.model.packed_forward import PackedForward
from distsent.operators import bias_gelu
from tests import architectures, tiny_models
from tests.single.test_half_weights import gradient

FUSED = {"bert": 2, "roberta": 2, "electra": 2, "camembert": 2, "distilbert": 0, "albert": 0}


@pytest.mark.parametrize("name", FUSED)
def test_known_layers_are_found(name: str) -> None:
    model = architectures.model(name, num_hidden_layers=2)
    assert sum(map(is_gelu_of_dense, model.modules())) == FUSED[name]


class Intermediate(nn.Module):
    def __init__(self, activation: str = "gelu") -> None:
        super().__init__()
        self.dense, self.intermediate_act_fn = nn.Linear(4, 4), ACT2FN[activation]

    def forward(self, x: Tensor) -> Tensor:
        return self.intermediate_act_fn(self.dense(x))


class GeluFirst(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.intermediate_act_fn(x))


class Twice(Intermediate):
    def forward(self, x: Tensor) -> Tensor:
        return self.dense(super().forward(x))


@pytest.mark.parametrize(
    ("module", "known"),
    [
        (Intermediate(), True),
        (Intermediate("gelu_new"), False),
        (Intermediate("relu"), False),
        (GeluFirst(), False),
        (Twice(), False),
    ],
)
def test_only_modules_that_compute_the_same_are_changed(module: nn.Module, known: bool) -> None:
    assert is_gelu_of_dense(module) == known


def test_a_layer_with_a_forward_of_its_own_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bias_gelu, "supports", lambda *_: True)
    part = Intermediate()
    fuse_gelus(part)
    part.dense.forward = torch.zeros_like
    assert not part(torch.ones(2, 4)).any()


@pytest.mark.parametrize(("precision", "half"), [("float32", False), ("bf16", True)])
def test_the_bias_is_added_once_and_has_its_gradient(
    precision: str, half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference takes the kernels' place. In bf16 layers read the 16-bit copy."""
    calls: list[torch.dtype] = []

    def counted(x: Tensor, bias_W: Tensor) -> Tensor:
        calls.append(x.dtype)
        return bias_gelu.reference(x, bias_W)

    found = []
    for kernels in (False, True):
        if kernels:
            monkeypatch.setattr(bias_gelu, "supports", lambda x, _: x.dtype != torch.float64)
            monkeypatch.setattr(bias_gelu.BiasGelu, "apply", counted)
        model = tiny_models.encoder("bert", dropout=0.1)
        for name, p in model.named_parameters():
            if name.endswith("intermediate.dense.bias"):
                p.data.normal_(0, 1, generator=torch.Generator().manual_seed(3))
        found.append(gradient(PackedForward(model), precision, half)[0])
    plain, ours = found
    assert calls == [torch.bfloat16 if half else torch.float32] * 4  # 2 layers, 2 micro-batches
    assert (ours - plain).norm() < (1e-2 if half else 1e-6) * plain.norm()
