"""The gradient noise scale against gradients of single examples."""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from distsent.batching.batch_plan import Batch
from distsent.model.classifier import token_embedding
from distsent.training import reducer
from distsent.training.noise_scale import NoiseScale, estimate
from distsent.training.train_state import TrainState
from distsent.training.train_step import LossScale, TrainStep
from tests.single.test_reducer import RecordingWorld, make

SHARES = [(8, 8), (4, 4, 4, 4), (13, 3), (1, 5, 10), (2, 1, 1, 0), (1,) * 16]


def squares(gradients_nN: np.ndarray, shares: tuple[int, ...]) -> tuple[np.ndarray, float, float]:
    """What workers with these shares of a batch would find."""
    ends = np.cumsum(shares)
    parts = [part.sum(axis=0) / ends[-1] for part in np.split(gradients_nN, ends[:-1])]
    return np.array(shares), sum(float(p @ p) for p in parts), float(sum(parts) @ sum(parts))


@pytest.mark.parametrize("shares", SHARES)
def test_estimates_are_unbiased_however_unequal_the_shares(shares: tuple[int, ...]) -> None:
    rng, n = np.random.default_rng(0), sum(shares)
    mean, deviations = np.array([0.3, -0.2, 0.0, 0.1]), np.array([1.0, 0.5, 2.0, 0.1])
    batches = mean + deviations * rng.normal(size=(2_000, n, 4))
    found = np.array([estimate(*squares(batch, shares)) for batch in batches])
    error = found.std(axis=0) / math.sqrt(len(found))
    exact = np.array([(deviations**2).sum(), (mean**2).sum()])
    assert (abs(found.mean(axis=0) - exact) < 4 * error).all(), (found.mean(axis=0), exact, error)


def test_equal_shares_give_the_formulas_of_the_paper() -> None:
    """Appendix A.1, with batches of B and B / workers."""
    gradients, workers, large = np.random.default_rng(1).normal(size=(12, 5)) + 0.3, 3, 12
    small = large // workers
    shares, own, whole = squares(gradients, (small,) * workers)
    mean_of_small = np.mean([(p.mean(axis=0) ** 2).sum() for p in np.split(gradients, workers)])
    gradient = (large * whole - small * mean_of_small) / (large - small)
    noise = (mean_of_small - whole) / (1 / small - 1 / large)
    assert estimate(shares, own, whole) == pytest.approx((noise, gradient))


def test_it_is_not_known_before_several_workers_have_made_some_steps() -> None:
    scale = NoiseScale()
    for shares in ([8], [8, 0]):
        scale.add(np.array(shares), 3.0, 3.0)
    scale.add(np.array([4, 4]), math.inf, 3.0)
    assert scale == NoiseScale()
    for _ in range(19):
        scale.add(np.array([4, 4]), 2.0, 2.5)
        assert set(scale.values().values()) == {None}
    scale.add(np.array([4, 4]), 2.0, 2.5)
    # |G|^2 = 0.5 / 0.5 = 1 and tr(Sigma) = 8 (2.5 - 1)
    assert scale.examples == pytest.approx(12) and 5 < scale.at_least < 12


def test_what_noise_hides_is_said_to_be_large() -> None:
    """The exact noise scale exceeds `at_least` in nearly all runs; `examples` comes out rarely."""
    rng, workers, own = np.random.default_rng(3), 2, 8
    for mean in (0.0, 0.1, 1.0):
        exact, below, shown = 1 / mean**2 if mean else math.inf, 0, 0
        for _ in range(100):
            scale = NoiseScale()
            for parts in rng.normal(mean, 1 / math.sqrt(own), size=(100, workers, 4)):
                whole, squared = parts.mean(axis=0), float((parts**2).sum()) / workers**2
                scale.add(np.full(workers, own), squared, float(whole @ whole))
            below += scale.at_least is not None and scale.at_least < exact
            shown += scale.examples is not None
        assert below >= 90
        assert shown < 10 if mean == 0 else shown == 100 if mean == 1 else True


def test_numerator_and_denominator_are_averaged_apart() -> None:
    scale, steps = NoiseScale(), [(np.array([3, 2]), 1.0, 1.3), (np.array([1, 1]), 0.9, 0.8)]
    for step in steps:
        scale.add(*step)
    (a, b), (c, d) = (estimate(*step) for step in steps)  # type: ignore[misc]
    assert scale.noise == pytest.approx(0.99 * 5 * a + 2 * c)
    assert scale.gradient == pytest.approx(0.99 * 5 * b + 2 * d)
    assert scale.squares == pytest.approx((0.99 * 5 * b) ** 2 + (2 * d) ** 2)
    state = TrainState(noise=scale)
    assert TrainState.from_dict(state.to_dict()) == state
    older = {key: value for key, value in state.to_dict().items() if key != "noise"}
    assert TrainState.from_dict(older).noise == NoiseScale()


def own_gradient(step: TrainStep, batch: Batch, rows: np.ndarray) -> torch.Tensor:
    """The gradients of single examples, summed: through autograd alone."""
    embedding, total = token_embedding(step.forward.model), torch.zeros_like(step.flat.values)
    embedding.sparse = False
    for row in rows:
        packed = batch.pack(np.array([row]))
        loss = step.run.loss(step.forward(packed), packed.labels_n).sum()
        total += parameters_to_vector(torch.autograd.grad(loss, [p for _, p in step.flat.named]))
    embedding.sparse = True
    return total / len(batch)


@pytest.mark.parametrize("scale", [1.0, 1024.0])
@pytest.mark.parametrize("budget", [1, 60, 10**6])  # accumulated, or at once
@pytest.mark.parametrize("overlaps", [False, True])
def test_a_worker_sends_the_squared_norm_of_its_own_gradient(
    overlaps: bool, budget: int, scale: float
) -> None:
    """Embedding rows included, whether buckets leave during backward or after it, unscaled."""
    world = RecordingWorld()
    world.local_size = 1 if overlaps else 2
    train_step, plan = make("bert", world, budget)
    train_step.scale = LossScale(scale)
    with patch.object(reducer, "BUCKET", 500):
        for number in range(3):
            batch = plan.batch(number)
            mine = np.concatenate(batch.micro_rows)
            expected = own_gradient(train_step, batch, mine).square().sum()
            found = train_step(batch).own_square
            assert found == pytest.approx(float(expected), rel=1e-4)
    assert batch.shares.tolist() == [4, 4]
    idle = train_step(replace(plan.batch(3), micro_rows=()))
    assert idle.own_square == 0
