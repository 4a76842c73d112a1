"""Passes that are recorded once and replayed, without a GPU: what stays, what fails, what is freed.

Whole training steps with the kernels: tests/interpreted_passes.py; on a GPU: tests/gpu.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distsent.batching.batch_plan import BatchPlan
from distsent.batching.block_tables import SMALLEST, BlockTables, block_table
from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.packing import PackedBatch, pack
from distsent.batching.static_batch import Shape, StaticBatch
from distsent.job.schema import OptimSection, TrainSection
from distsent.operators.embedding import add_rows_to
from distsent.training.passes import EachAsItComes
from distsent.training.recorded_passes import RecordedPasses, Run
from distsent.training.train_step import TrainStep
from tests import tiny_models
from tests.single.test_train_step import make

CPU = torch.device("cpu")


def batch(*lengths: int, first: int = 3) -> PackedBatch:
    rows, L = np.arange(len(lengths)), np.array(lengths)
    keys_T = dropout_keys(1, 2, rows, L)
    ids = [first + row + np.arange(n) for row, n in enumerate(lengths)]
    return pack(ids, rows % 3, keys_T=keys_T, step_key=step_key(1, 2))


class Sums:
    """In place of a pass: the gradient is the sum of the ids, times the factors."""

    def __init__(self) -> None:
        self.flat: Any = SimpleNamespace(buffer=torch.zeros(2), half=None)
        self.calls = 0

    def __call__(self, packed: PackedBatch, factor_n: Tensor) -> Tensor:
        self.calls += 1
        losses_n = packed.ids_T[packed.cls_index_n] * factor_n
        self.flat.buffer += losses_n.sum()
        return losses_n


class Recorder:
    """Replays by calling again, into memory that stays. `wrong` is added to replayed gradients."""

    def __init__(self, run: Sums, wrong: float = 0.0) -> None:
        self.run, self.wrong, self.recorded = run, wrong, 0

    def aside(self, run: Run) -> None:
        run()

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        self.recorded += 1
        before = self.run.flat.buffer.clone()
        out = run().clone()
        self.run.flat.buffer.copy_(before)

        def replay() -> None:
            out.copy_(run())
            self.run.flat.buffer += self.wrong

        return replay, out


class Refuses(Recorder):
    def record(self, run: Run) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")


class Waits(Recorder):
    """The CPU waits for the GPU in the middle of a pass."""

    def aside(self, run: Run) -> None:
        run()
        raise RuntimeError("called a synchronizing CUDA operation")


class Frozen(Recorder):
    """Replays what it recorded, whatever batch has come."""

    def record(self, run: Run) -> tuple[Callable[[], Any], Tensor]:
        before = self.run.flat.buffer.clone()
        out = run().clone()
        added = self.run.flat.buffer - before
        self.run.flat.buffer.copy_(before)
        return lambda: self.run.flat.buffer.add_(added), out


def passes(kind: type[Recorder] = Recorder, **options: float) -> tuple[Any, Sums, Any, list[str]]:
    run, lines = Sums(), list[str]()
    recorder = kind(run, **options)
    made: Any = RecordedPasses(run, recorder, CPU, lines.append)  # type: ignore[arg-type]
    return made, run, recorder, lines


def test_batches_of_one_shape_share_one_recording() -> None:
    recorded, run, recorder, lines = passes()
    batches = [batch(4, 2, 5, first=n) for n in range(3, 8)] + [batch(4, 2, 1, first=9)]
    expected = Sums()
    for packed in batches:
        right = EachAsItComes(expected)(packed, 0.5)  # type: ignore[arg-type]
        assert torch.equal(recorded(packed, 0.5), right)
        assert torch.equal(run.flat.buffer, expected.flat.buffer)
    assert (recorder.recorded, lines) == (1, [])


def test_a_shape_is_recorded_with_its_second_batch() -> None:
    recorded, _, recorder, _ = passes()
    for lengths in ((4, 4), (40, 40), (4, 4, 4, 4, 4), (80,)):
        recorded(batch(*lengths), 1.0)
    assert recorder.recorded == 0
    recorded(batch(5, 3), 1.0)
    assert recorder.recorded == 1


@pytest.mark.parametrize(
    ("kind", "options", "why"),
    [
        (Refuses, {}, "operation not permitted when stream is capturing"),
        (Waits, {}, "called a synchronizing CUDA operation"),
        (Recorder, {"wrong": 1e-3}, "a replay had other gradients"),
        (Frozen, {}, "a replay had other gradients"),
    ],
)
def test_what_cannot_be_recorded_runs_kernel_by_kernel(kind: Any, options: Any, why: str) -> None:
    recorded, run, _, lines = passes(kind, **options)
    expected = Sums()
    for n in range(3, 8):
        packed = batch(4, 2, first=n)
        right = EachAsItComes(expected)(packed, 0.5)  # type: ignore[arg-type]
        assert torch.equal(recorded(packed, 0.5), right)
    assert torch.equal(run.flat.buffer, expected.flat.buffer)
    assert lines == [f"passes run kernel by kernel, not as CUDA graphs: {why}"]
    assert not recorded.forget()


@pytest.mark.parametrize("batches", [0, 1, 4])
def test_passes_forget_once(batches: int) -> None:
    recorded, _, _, lines = passes()
    for n in range(batches):
        recorded(batch(4, 2, first=3 + n), 0.5)
    assert recorded.forget()
    recorded(batch(4, 2), 0.5)
    assert not recorded.forget()
    assert lines == ["no memory for CUDA graphs: passes run kernel by kernel"]


def test_a_recording_without_memory_is_no_other_failure() -> None:
    class Full(Recorder):
        def record(self, run: Run) -> Any:
            raise RuntimeError("CUDA error: out of memory")

    recorded, _, _, lines = passes(Full)
    recorded(batch(4, 2), 0.5)
    with pytest.raises(RuntimeError, match="out of memory"):
        recorded(batch(4, 2), 0.5)
    assert recorded.forget()
    assert torch.isfinite(recorded(batch(4, 2), 0.5)).all()
    assert len(lines) == 1


def step_and_plan(budget: int) -> tuple[TrainStep, BatchPlan]:
    model, train = tiny_models.encoder("bert", dropout=0.1), TrainSection(batch_size=8)
    return make(model, tiny_models.tokens(45), train, OptimSection(), budget)


def test_without_memory_recorded_passes_are_forgotten_and_the_step_repeated() -> None:
    (plain, plan), (step, _) = step_and_plan(60), step_and_plan(60)
    forgotten = 0

    class Scarce(EachAsItComes):
        """The second micro-batch finds no memory, as long as recorded passes take some."""

        calls = 0

        def __call__(self, packed: PackedBatch, factor: float) -> Tensor:
            Scarce.calls += 1
            if Scarce.calls == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(packed, factor)

        def forget(self) -> bool:
            nonlocal forgotten
            forgotten += 1
            return forgotten == 1

    step._passes = Scarce(step.run)
    assert len(plan.batch(0).micro_rows) > 1
    expected = plain(plan.batch(0))
    assert step(plan.batch(0)) == expected
    assert torch.equal(step.flat.values, plain.flat.values)
    assert forgotten == 1


def test_memory_stays_and_what_is_left_belongs_to_no_example() -> None:
    first, second = batch(4, 2, 5), batch(3, 7, 1, first=20)
    assert Shape.of(first) == Shape.of(second)
    static = StaticBatch(Shape.of(first), first, CPU)
    before = static.fill(first, 0.25)
    addresses = [before.ids_T.data_ptr(), before.labels_n.data_ptr()]
    filled = static.fill(second, 0.5)
    assert addresses == [filled.ids_T.data_ptr(), filled.labels_n.data_ptr()]
    for name in ("ids_T", "positions_T", "keys_T", "cls_index_n", "labels_n", "step_key"):
        values = getattr(second, name)
        assert torch.equal(getattr(filled, name)[: len(values)], values), name
    assert static.factor_n.tolist() == [0.5] * 3
    assert Shape.of(batch(1, 1, 1, 1, 1)).examples == 6
    assert Shape.of(batch(*[1] * 8)).tokens > 8  # as many tokens as examples mean something else


def test_tables_of_blocks_stay_and_their_other_rows_have_no_tokens() -> None:
    tables = BlockTables(96, 4, 64, CPU)
    kinds = (16, False, False), (64, False, True), (16, True, True)
    tables.set((30, 1, 0, 50))
    addresses = [tables.table(*kind).data_ptr() for kind in kinds]
    for lengths in ((30, 1, 0, 50), (96,), (64, 32, 0, 0)):
        tables.set(lengths)
        for kind, address in zip(kinds, addresses, strict=True):
            table, right = tables.table(*kind), block_table(lengths, *kind)
            assert table.data_ptr() == address
            assert table[: len(right)].tolist() == right.tolist()
            assert not table[len(right) :, 1].any()
    assert min(size for size, *_ in kinds) == SMALLEST


@pytest.mark.parametrize("padding", [None, 2])
def test_the_embedding_adds_its_gradient_to_rows(padding: int | None) -> None:
    embedding = nn.Embedding(7, 3, padding_idx=padding)
    ids, dout = torch.tensor([[2, 5, 5, 0]]), torch.randn(1, 4, 3)
    F.embedding(ids, embedding.weight, padding).backward(dout)
    right = embedding.weight.grad
    assert right is not None
    embedding.weight.grad = None
    rows = torch.zeros(7, 3)
    assert add_rows_to(embedding, rows)
    embedding(ids).backward(dout)
    assert torch.allclose(rows, right)
    assert embedding.weight.grad is None
    assert not add_rows_to(nn.Embedding(7, 3, max_norm=1.0), rows)


def test_a_prepared_batch_is_the_one_that_would_be_made() -> None:
    _, plan = step_and_plan(60)
    plan = replace(plan, packs_on=CPU)
    right = [packed for _, packed in plan.batch(1).micro_batches()]
    plan.prepare(1)
    found = [packed for _, packed in plan.batch(1).micro_batches()]
    assert len(right) == len(found)
    for a, b in zip(right, found, strict=True):
        assert torch.equal(a.ids_T, b.ids_T)
        assert a.keys_T is not None
        assert b.keys_T is not None
        assert torch.equal(a.keys_T, b.keys_T)
