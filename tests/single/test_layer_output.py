"""Layers whose last operations are one operator on a GPU, and their bits on a CPU."""

import numpy as np
import pytest
import torch
from torch import nn

from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.packing import pack
from distsent.model import packed_forward
from distsent.model.dropout import DropoutContext, TokenDropout
from distsent.model.layer_output import PARTS, is_layer_output
from distsent.model.pooling import FIRST
from tests import architectures

LAYERS = 2
FUSED = {
    "bert": 2 * LAYERS, "roberta": 2 * LAYERS, "xlm-roberta": 2 * LAYERS, "electra": 2 * LAYERS,
    "camembert": 2 * LAYERS, "distilbert": 0, "albert": 0,
}  # fmt: skip


@pytest.mark.parametrize("name", FUSED)
def test_known_layers_are_fused_and_keep_their_bits(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.array([5, 9])
    keys_T = dropout_keys(3, 4, np.arange(2), lengths)
    ids = [np.arange(10, 10 + n) for n in lengths]
    batch = pack(ids, np.zeros(2, dtype=np.int64), keys_T=keys_T)
    found = []
    for fuse in (packed_forward.fuse_layer_outputs, lambda model: None):
        monkeypatch.setattr(packed_forward, "fuse_layer_outputs", fuse)
        model = architectures.model(name, num_hidden_layers=LAYERS)
        names = model.state_dict().keys()
        forward = packed_forward.PackedForward(model, FIRST)
        model.train()
        logits = forward(batch)
        logits.square().sum().backward()
        assert names == model.state_dict().keys()
        fused = sum("forward" in vars(m) for m in model.modules() if set(m._modules) >= PARTS)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found.append((fused, logits, gradients))
    (fused, ours, mine), (plain, theirs, yours) = found
    assert (fused, plain) == (FUSED[name], 0)
    assert torch.equal(ours, theirs) and mine.keys() == yours.keys()
    assert all(torch.equal(mine[each], yours[each]) for each in mine)


class Output(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.dropout = TokenDropout(0.1, DropoutContext())

    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states)) + input_tensor)


class NormFirst(Output):
    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        return self.LayerNorm(self.dropout(self.dense(hidden_states))) + input_tensor


class DropLast(Output):
    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.LayerNorm(self.dense(hidden_states) + input_tensor))


class OtherNames(Output):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return super().forward(x, y)


class LooksAtShapes(Output):
    def forward(self, hidden_states: torch.Tensor, input_tensor: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.view(-1, 4), input_tensor)


def with_norm(norm: nn.Module) -> Output:
    output = Output()
    output.LayerNorm = norm
    return output


@pytest.mark.parametrize(
    ("module", "known"),
    [
        (Output(), True),
        (NormFirst(), False),
        (DropLast(), False),
        (OtherNames(), False),
        (LooksAtShapes(), False),
        (with_norm(nn.RMSNorm(4)), False),
        (with_norm(nn.LayerNorm(4, bias=False)), False),
        (with_norm(nn.LayerNorm(4, elementwise_affine=False)), False),
        (with_norm(nn.LayerNorm((2, 4))), False),
    ],
)
def test_only_modules_that_compute_the_same_are_replaced(module: nn.Module, known: bool) -> None:
    assert is_layer_output(module) == known
