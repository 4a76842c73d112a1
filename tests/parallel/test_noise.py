"""The gradient noise scale that workers estimate is that of gradients of single examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from distsent.batching.batch_plan import BatchPlan
from distsent.distributed.world import World
from distsent.job import load_job
from distsent.model.classifier import token_embedding
from distsent.runtime.checkpoint import list_checkpoints, load
from distsent.training.build import build_plan, build_step, open_model
from distsent.training.inputs import prepare_store, prepare_tokenizer
from distsent.training.noise_scale import NoiseScale, estimate
from tests import fixtures
from tests.parallel.conftest import PLAIN, but
from tests.parallel.driver import NoSignals


def noise_sums(run: Path) -> list[float]:
    """Those of the last checkpoint."""
    state = load(list_checkpoints(run / "checkpoints")[-1]).state
    return [*state["progress"]["noise"].values()]


@pytest.fixture(scope="module")
def examples(
    parts: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[np.ndarray, BatchPlan]:
    """Gradients float64 [rows, N] of all training rows at the first weights, and the batches."""
    folder = tmp_path_factory.mktemp("examples")
    job = load_job(None, but([*parts, *PLAIN], f"run.dir={folder}", "job.name=noise"))
    world, cpu = World(), torch.device("cpu")
    tokenizer = prepare_tokenizer(job)
    store = prepare_store(job, tokenizer, world, NoSignals(), None)
    _, forward, _ = open_model(job, world, "float32", tokenizer, store, cpu)
    plan = build_plan(job, store, forward, world, cpu, "float32")
    step = build_step(job, store, forward, world, cpu, "float32", 9)
    token_embedding(forward.model.train()).sparse = False
    parameters, found = [p for _, p in step.flat.named], []
    for row in range(len(plan.tokens)):
        packed = plan._pack(0, np.array([row]))
        loss = step.run.loss(forward(packed), packed.labels_n).sum()
        gradient = parameters_to_vector(torch.autograd.grad(loss, parameters))
        found.append(gradient.double().numpy())
    return np.array(found), plan


def replay(
    examples: tuple[np.ndarray, BatchPlan], workers: int
) -> tuple[NoiseScale, list[tuple[float, float]]]:
    """What these workers must find, and the estimates of all steps."""
    gradients, plan = examples
    plan, scale, found = plan.for_worker(0, workers), NoiseScale(), []
    for step in range(24):
        rows, _, owner = plan.assigned(step)
        own = [gradients[rows[owner == rank]].sum(axis=0) / len(rows) for rank in range(workers)]
        whole = sum(own)
        shares = np.bincount(owner, minlength=workers)
        measured = shares, sum(float(each @ each) for each in own), float(whole @ whole)
        scale.add(*measured)
        found.append(estimate(*measured))
    return scale, found  # type: ignore[return-value]


@pytest.mark.parametrize("np_", [2, 3, 4])
def test_workers_find_the_noise_scale_of_single_examples(
    world: Callable[[int], Path], examples: tuple[np.ndarray, BatchPlan], np_: int
) -> None:
    """Clipped, accumulated, with buckets that leave during backward and unequal shares."""
    expected, steps = replay(examples, np_)
    run = world(np_) / "noise"
    for each in (run, world(np_) / "shared-noise"):
        assert noise_sums(each) == pytest.approx([*asdict(expected).values()], rel=1e-3)
    last = fixtures.metrics(run)[-1]
    for key, value in expected.values().items():
        assert last.get(key) == (value and pytest.approx(value, rel=1e-2))
        assert fixtures.result(run)["train"][key] == last.get(key)
    # And so within the statistical error of the exact one, at any number of workers.
    gradients = examples[0]
    exact = gradients.var(axis=0, ddof=1).sum()
    mean = gradients.mean(axis=0)
    for found, true in zip(np.transpose(steps), (exact, mean @ mean - exact / 45), strict=True):
        assert abs(found.mean() - true) < 4 * found.std() / len(found) ** 0.5, (found, true)


def test_a_loss_scale_is_taken_out_and_a_mistake_is_seen(
    world: Callable[[int], Path], examples: tuple[np.ndarray, BatchPlan]
) -> None:
    expected, _ = replay(examples, 2)
    sums = [*asdict(expected).values()]
    assert noise_sums(world(2) / "noise-scaled") == pytest.approx(sums, rel=1e-3)
    assert noise_sums(world(2) / "rows_not_squared") != pytest.approx(sums, rel=1e-1)
    assert fixtures.result(world(1) / "short")["train"]["noise_scale"] is None
