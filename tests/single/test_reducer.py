"""Buckets that leave during backward are complete."""

import gc
import weakref
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch

from distsent.batching.batch_plan import BatchPlan
from distsent.batching.flops import count_flops
from distsent.batching.sampler import BatchSampler
from distsent.distributed.world import World
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.job.schema import OptimSection
from distsent.model.classifier import token_embedding
from distsent.model.packed_forward import PackedForward
from distsent.training import reducer
from distsent.training.flat_parameters import FlatParameters
from distsent.training.optimizer import Schedule
from distsent.training.passes import Pass, TrainingLoss
from distsent.training.train_step import StopRequests, TrainStep
from tests import fixtures, tiny_models

BUCKET = 500  # elements: a tiny model has several buckets


class RecordingWorld(World):
    """Rank 0 of two; the other gradient is zero. Records the tensors of started all-reduces."""

    size = 2  # on two machines

    def __init__(self) -> None:
        super().__init__()
        self.started: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self.order: list[str] = []

    def _start_allreduce(self, tensor: torch.Tensor, name: str) -> str:
        assert name not in self.started, f"{name} starts twice"
        self.order.append(name)
        self.started[name] = tensor, tensor.clone()
        return name

    def _finish_allreduce(self, started: str) -> None:
        now, then = self.started.pop(started)
        assert torch.equal(now, then), f"{started} left before its gradient was complete"


def make(
    family: str, world: World, budget: int, precision: str = "float32"
) -> tuple[TrainStep, BatchPlan]:
    tokens, model = tiny_models.tokens(40), tiny_models.encoder(family, dropout=0.1)
    plan = BatchPlan(
        tokens,
        BatchSampler(40, 8, seed=5),
        count_flops(model.config),
        0,
        2,
        budget,
        torch.device("cpu"),
    )
    flat = FlatParameters(model, token_embedding(model))
    with patch.object(reducer, "BUCKET", BUCKET):
        sums = reducer.GradientReducer(world, flat)
    optim, forward = OptimSection(), PackedForward(model.train())
    schedule, loss = Schedule.from_job(optim, 10), TrainingLoss(SingleLabel(fixtures.LABELS))
    run = Pass(forward, flat, loss, precision)
    return TrainStep(run, sums, optim, schedule), plan


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("budget", [1, 60, 10**6])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_buckets_leave_complete_during_the_last_backward_pass(
    family: str, budget: int, precision: str
) -> None:
    world = RecordingWorld()
    train_step, plan = make(family, world, budget, precision)
    overlapped: list[int] = []

    def requests() -> StopRequests:
        overlapped.append(len(world.started))
        assert f"gradient.{len(train_step.flat.dense.split(BUCKET)) - 1}" not in world.started, (
            "the control_slots are not known yet"
        )
        return StopRequests()

    for step in range(5):
        train_step(plan.batch(step), requests)
        assert not world.started
    buckets = len(train_step.flat.dense.split(BUCKET))
    assert all(buckets * 0.5 < count < buckets for count in overlapped), (overlapped, buckets)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_weights_do_not_depend_on_when_buckets_leave(precision: str) -> None:
    found = []
    for local_size in (1, 2):
        world = RecordingWorld()
        world.local_size = local_size
        train_step, plan = make("bert", world, 60, precision)
        for step in range(3):
            train_step(plan.batch(step))
        found.append(train_step.flat.values)
    assert torch.equal(*found)


def test_hooks_keep_nothing_alive() -> None:
    train_step, _ = make("bert", RecordingWorld(), 60)
    left = weakref.ref(train_step.reducer), weakref.ref(train_step.flat)
    del train_step, _
    gc.collect()
    assert [one() for one in left] == [None, None]


def test_a_worker_without_examples_sends_the_same_buckets() -> None:
    world = RecordingWorld()
    train_step, plan = make("bert", world, 10**6)
    train_step(replace(plan.batch(0), micro_rows=()))
    assert not world.started and train_step.reducer.sent >= 4 * train_step.flat.dense.numel()
    order, world.order = world.order, []
    train_step(plan.batch(1))
    assert world.order == order, "torch's collectives match by their order alone"


@pytest.mark.parametrize(("elastic", "local_size"), [(True, 1), (False, 2)])
def test_elastic_worlds_and_workers_of_one_machine_reduce_after_backward(
    elastic: bool, local_size: int
) -> None:
    world = RecordingWorld()
    world.elastic, world.local_size = elastic, local_size
    train_step, plan = make("bert", world, 60)

    def requests() -> StopRequests:
        assert not world.started
        return StopRequests()

    train_step(plan.batch(0), requests)
