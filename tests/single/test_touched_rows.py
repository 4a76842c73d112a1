"""Rows of the embedding that no batch has had are skipped, with the bits of torch's Adam."""

import pytest
import torch
from torch import nn

from distsent.job.schema import OptimSection
from distsent.training import touched_rows
from distsent.training.exchange import Part
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import Optimizer
from distsent.training.touched_rows import TouchedRows

V, D, STEPS = 60, 32, 12


def flat_model() -> FlatParameters:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(V, D), nn.Linear(D, 3))
    return FlatParameters(model, model[0])  # type: ignore[arg-type]


def give_gradients(flat: FlatParameters, ids: torch.Tensor, number: int) -> None:
    """Of a batch with these tokens."""
    numbers = torch.Generator().manual_seed(number)
    flat.grads.zero_()
    flat.dense.normal_(generator=numbers)
    assert flat.embedding_grad is not None
    flat.embedding_grad[ids] = torch.randn(len(ids), D, generator=numbers)


@pytest.mark.parametrize("most", [10, V])  # of the rows, few or in the end nearly all
@pytest.mark.parametrize("workers", [1, 3, 100])  # more than rows
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_weights_and_moments_have_the_bits_of_torch(
    name: str, workers: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that only an earlier batch had moves on. After a resume, too."""
    monkeypatch.setattr(touched_rows, "CHUNK", 4 * D)
    monkeypatch.setattr(touched_rows, "COPYING", 2)
    optim, (found, expected) = OptimSection(name=name), (flat_model() for _ in range(2))
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    parameter = nn.Parameter(expected.values)
    reference = kind([parameter], betas=tuple(optim.betas), weight_decay=0, fused=True)
    first = expected.values.clone()
    for number in range(STEPS):
        if number in (0, STEPS // 2):
            parts = [Part.of(found, i, workers) for i in range(workers)]
            optimizers = [Optimizer(optim, found, part) for part in parts]
            for optimizer in optimizers:
                optimizer.resume(number)
        ids = torch.randperm(most, generator=torch.Generator().manual_seed(number))[:6].sort()[0]
        for flat in (found, expected):
            give_gradients(flat, ids, number)
        parameter.grad = expected.grads
        reference.param_groups[0]["lr"] = lr = 0.1 / (1 + number)
        reference.step()
        for optimizer in optimizers:
            optimizer.step(ids, lr)
        assert torch.equal(found.values, expected.values), number
    assert [optimizer.updates for optimizer in optimizers] == [STEPS] * workers
    for key, moment in found.moments.items():
        assert torch.equal(moment, reference.state[parameter][key])
    moved = (found.values != first)[: V * D].view(V, D).any(1)
    assert moved[:most].sum() > 6 and not moved[most:].any()


def test_untouched_rows_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    flat, rows = flat_model(), []
    monkeypatch.setattr(TouchedRows, "_adam", lambda self, grads, *_: rows.append(len(grads)))
    optimizer = Optimizer(OptimSection(), flat, Part.of(flat))
    for ids in ([3, 7], [7, 9]):
        optimizer.step(torch.tensor(ids), 0.1)
    assert rows == [2, 3]


def test_weight_decay_moves_all_rows() -> None:
    flat = flat_model()
    before = flat.values.clone()
    give_gradients(flat, torch.tensor([3]), 0)
    Optimizer(OptimSection(name="adamw", weight_decay=0.1), flat, Part.of(flat)).step(
        torch.tensor([3]), 0.1
    )
    assert (flat.values != before)[: V * D].view(V, D).any(1).all()


@pytest.mark.parametrize("width", [15, 24])
def test_a_width_that_leaves_numbers_over_takes_all_rows(width: int) -> None:
    """torch computes those at the end of a tensor in other precision."""
    model = nn.Sequential(nn.Embedding(V, width), nn.Linear(width, 3))
    flat = FlatParameters(model, model[0])  # type: ignore[arg-type]
    assert not touched_rows.skips_rows(OptimSection(), flat)
    assert touched_rows.skips_rows(OptimSection(), flat_model())
