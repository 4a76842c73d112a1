"""The classical mistakes of distributed training, patched in. The tests must catch each of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from distsent.batching import batch_plan
from distsent.batching.balance import split_by_tokens
from distsent.batching.batch_plan import Batch, BatchPlan
from distsent.batching.sampler import BatchSampler
from distsent.distributed.world import World
from distsent.evaluation import evaluate_split
from distsent.training.exchange import whole_norm
from distsent.training.optimizer import Schedule
from distsent.training.passes import LOSS
from distsent.training.reducer import GradientReducer
from distsent.training.shared_reducer import SharedReducer
from distsent.training.train_step import Losses, LossScale, TrainStep

Mutant = Callable[[int, int], Any]  # (rank, size) -> context
MUTANTS: dict[str, Mutant] = {}


def mutant(make: Callable[[int, int], Iterator[Any]]) -> Mutant:
    MUTANTS[make.__name__] = contextmanager(make)
    return MUTANTS[make.__name__]


def no_overlap() -> Any:
    """No bucket leaves during backward: for mistakes made after it."""
    return patch.object(GradientReducer, "arm", lambda self: None)


@mutant
def local_clipping(rank: int, size: int) -> Iterator[Any]:
    """Each worker clips its own gradient, before the all-reduce."""
    real = GradientReducer.reduce

    def wrong(self: GradientReducer, rows: torch.Tensor) -> None:
        norm = float(torch.linalg.vector_norm(self._flat.grads))
        self._flat.grads.mul_(min(1.0, 0.3 / (norm + 1e-6)))
        real(self, rows)

    with no_overlap(), patch.object(GradientReducer, "reduce", wrong):
        yield


@mutant
def mean_of_means(rank: int, size: int) -> Iterator[Any]:
    """Each worker takes the mean over its own examples; the all-reduce takes the mean of means."""
    real = TrainStep._backward

    def wrong(self: TrainStep, batch: Batch) -> Losses:
        losses = real(self, batch)
        mine = sum(len(rows) for rows in batch.micro_rows)
        factor = len(batch) / (max(1, mine) * size)
        self.flat.grads.mul_(factor)
        self.flat.control_slots[LOSS] *= factor
        return losses

    with no_overlap(), patch.object(TrainStep, "_backward", wrong):
        yield


@mutant
def accumulated_means(rank: int, size: int) -> Iterator[Any]:
    """All micro-batches have equal weight, however many examples they have."""
    real = TrainStep._backward

    def wrong(self: TrainStep, batch: Batch) -> Losses:
        losses: Losses = []
        kept, loss = torch.zeros_like(self.flat.grads), 0.0
        for rows in batch.micro_rows:
            losses += real(self, replace(batch, micro_rows=(rows,)))
            factor = len(batch) / (len(rows) * len(batch.micro_rows) * size)
            kept += self.flat.grads * factor
            loss += float(self.flat.control_slots[LOSS]) * factor
        self.flat.grads.copy_(kept)
        self.flat.control_slots[LOSS] = loss
        return losses

    with no_overlap(), patch.object(TrainStep, "_backward", wrong):
        yield


@mutant
def reduced_too_early(rank: int, size: int) -> Iterator[Any]:
    """Buckets are reduced during the first micro-batch's backward pass, before the second one."""
    real, arm, start = GradientReducer.reduce, GradientReducer.arm, GradientReducer._start

    def wrong(self: GradientReducer, rows: torch.Tensor) -> None:
        real(self, rows)
        arm(self)

    def at_once(self: GradientReducer, i: int) -> None:
        start(self, i)
        started, poll = self._handles[i][1], getattr(self.world, "_hvd", None)
        while not (poll.poll(started) if poll else started.is_completed()):
            time.sleep(0.0005)

    with (
        no_overlap(),
        patch.object(GradientReducer, "reduce", wrong),
        patch.object(GradientReducer, "_start", at_once),
    ):
        yield


@mutant
def padded_evaluation(rank: int, size: int) -> Iterator[Any]:
    """Rows are repeated until all workers have equally many, as in torch's DistributedSampler."""

    def wrong(lengths: np.ndarray, rank: int, size: int, batch_tokens: int) -> list[np.ndarray]:
        order = np.argsort(lengths, kind="stable")[::-1]
        padded = np.resize(order, -(-len(order) // size) * size)
        return list(split_by_tokens(padded[rank::size], lengths, batch_tokens))

    with patch.object(evaluate_split, "batches_of_rank", wrong):
        yield


@mutant
def schedule_per_rank(rank: int, size: int) -> Iterator[Any]:
    """The schedule advances once per worker."""
    real = Schedule.factor
    with patch.object(Schedule, "factor", lambda self, step: real(self, step * size)):
        yield


@mutant
def sampler_per_rank(rank: int, size: int) -> Iterator[Any]:
    """Each worker shuffles differently."""
    real, plain = BatchPlan.batch, BatchSampler.batches

    def wrong(self: BatchPlan, step: int) -> Batch:
        rows = len(self.tokens)
        with patch.object(
            BatchSampler,
            "batches",
            lambda order, step, count: (plain(order, step, count) + 7 * rank) % rows,
        ):
            return replace(real(self, step), token_ids=torch.arange(100))

    with patch.object(BatchPlan, "batch", wrong):
        yield


@mutant
def dropout_per_rank(rank: int, size: int) -> Iterator[Any]:
    """Dropout depends on the worker instead of the example."""
    real = batch_plan.dropout_keys
    with patch.object(
        batch_plan,
        "dropout_keys",
        lambda seed, step, rows, lengths: real(seed + rank, step, rows, lengths),
    ):
        yield


@mutant
def embedding_not_reduced(rank: int, size: int) -> Iterator[Any]:
    """The embedding's gradient is not reduced."""
    real = GradientReducer.reduce

    def wrong(self: GradientReducer, rows: torch.Tensor) -> None:
        assert self._flat.embedding_grad is not None
        mine = self._flat.embedding_grad.clone()
        real(self, rows)
        self._flat.embedding_grad.copy_(mine)

    with patch.object(GradientReducer, "reduce", wrong):
        yield


@mutant
def loss_per_window(rank: int, size: int) -> Iterator[Any]:
    """Each window of a text counts as an example."""
    real = batch_plan.pack

    def wrong(ids: Any, labels: Any, *rest: Any, windows_n: Any) -> Any:
        return real(ids, np.repeat(labels, windows_n), *rest)

    with patch.object(batch_plan, "pack", in_training(wrong)):
        yield


@mutant
def last_window_lost(rank: int, size: int) -> Iterator[Any]:
    """The last window of each text that has several is not read."""
    with patch.object(batch_plan, "pack", in_training(keep_windows(lambda n: n - (n > 1)))):
        yield


@mutant
def text_on_two_workers(rank: int, size: int) -> Iterator[Any]:
    """A text's windows are shared by the workers, of which each takes the mean of its own."""
    real = BatchPlan.batch

    def wrong(self: BatchPlan, step: int) -> Batch:
        batch = real(self, step)
        counts = self.tokens.counts(batch.rows)
        assert counts is not None
        mine = batch.rows[counts > rank]
        return replace(batch, micro_rows=(mine,) if len(mine) else ())

    first = keep_windows(lambda n: -(-n // 2))
    last = keep_windows(lambda n: n // 2, from_end=True)
    with (
        patch.object(BatchPlan, "batch", wrong),
        patch.object(batch_plan, "pack", in_training(last if rank else first)),
    ):
        yield


def in_training(wrong: Callable[..., Any]) -> Callable[..., Any]:
    """`pack` with a mistake that an evaluation does not make."""
    real = batch_plan.pack

    def pack(ids: Any, labels: Any, types: Any, keys_T: Any, *rest: Any, **more: Any) -> Any:
        chosen = real if keys_T is None else wrong
        return chosen(ids, labels, types, keys_T, *rest, **more)

    return pack


def keep_windows(count: Callable[[np.ndarray], np.ndarray], from_end: bool = False) -> Any:
    """`pack` of the first or last `count(windows_n)` windows of each text."""
    real = batch_plan.pack

    def pack(ids: Any, labels: Any, types: Any, keys_T: Any, *rest: Any, windows_n: Any) -> Any:
        kept_n = count(windows_n)
        place = np.concatenate([np.arange(n) for n in windows_n])
        skipped = np.repeat(windows_n - kept_n, windows_n) if from_end else 0
        kept = (place >= skipped) & (place - skipped < np.repeat(kept_n, windows_n))
        mask = np.repeat(kept, [len(x) for x in ids])
        ids = [x for x, keep in zip(ids, kept, strict=True) if keep]
        keys_T = keys_T[torch.from_numpy(mask)]
        return real(ids, labels, types, keys_T, *rest, windows_n=kept_n)

    return pack


@contextmanager
def loss_scaled(rank: int, size: int) -> Iterator[Any]:
    """No mistake: a loss scale in float32, where a power of two changes nothing."""
    real = TrainStep.__init__

    def scaled(self: TrainStep, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        self.scale = LossScale(1024.0)

    with patch.object(TrainStep, "__init__", scaled):
        yield


@contextmanager
def rows_not_squared(rank: int, size: int) -> Iterator[Any]:
    """A mistake that changes no weight: own gradients are measured without embedding rows."""
    real = GradientReducer.own_square

    def wrong(self: GradientReducer, rows: torch.Tensor) -> Any:
        return real(self, rows[:0])

    with patch.object(GradientReducer, "own_square", wrong):
        yield


@contextmanager
def all_rows(rank: int, size: int) -> Iterator[Any]:
    """No mistake: the complete embedding gradient is reduced."""
    real = GradientReducer.reduce

    def dense(self: GradientReducer, rows: torch.Tensor) -> None:
        assert self._flat.embedding_grad is not None
        real(self, torch.arange(len(self._flat.embedding_grad)))

    with patch.object(GradientReducer, "reduce", dense):
        yield


ASKED = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4096 bytes."


@contextmanager
def no_memory(rank: int, size: int) -> Iterator[Any]:
    """No mistake: from the fifth step on, the last worker's first layers have no memory."""
    real, calls = TrainStep._backward, [0]

    def fails(self: TrainStep, batch: Batch) -> Losses:
        found = real(self, batch)  # buckets have left by now
        calls[0] += 1
        if calls[0] >= 5 and rank == size - 1:
            raise RuntimeError(f"[enforce fail at alloc_cpu.cpp:121] . {ASKED} Error code 12")
        return found

    with patch.object(TrainStep, "_backward", fails):
        yield


@contextmanager
def no_memory_to_evaluate(rank: int, size: int) -> Iterator[Any]:
    """No mistake: the last worker has no memory to evaluate."""
    real = evaluate_split.collate

    def fails(*args: Any) -> Any:
        if rank == size - 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0")
        return real(*args)

    with patch.object(evaluate_split, "collate", fails):
        yield


@mutant
def scaled_clipping(rank: int, size: int) -> Iterator[Any]:
    """Gradients are clipped while the loss scale is still in them."""
    real = TrainStep._clip

    def wrong(self: TrainStep, norm: float) -> None:
        real(self, norm * self.scale.value)

    with loss_scaled(rank, size), patch.object(TrainStep, "_clip", wrong):
        yield


MISTAKES = tuple(MUTANTS)


@mutant
def part_not_summed(rank: int, size: int) -> Iterator[Any]:
    """The last worker updates its part by its own gradients alone."""

    def wrong(self: SharedReducer, gradients: list[Tensor], own: list[Tensor]) -> Tensor:
        return gradients[rank]

    kept = SharedReducer._add
    with patch.object(SharedReducer, "_add", wrong if rank == size - 1 else kept):
        yield


@mutant
def norm_of_a_part(rank: int, size: int) -> Iterator[Any]:
    """Each worker clips its part by the norm of that part."""

    def wrong(self: SharedReducer, token_ids: Tensor) -> tuple[float, float]:
        real = norms(self, token_ids)
        rows = self._row_norms[self.part.own_rows(token_ids)]
        return whole_norm(torch.cat([rows, self._chunk_norms[[*self.part.chunks()]]])), real[1]

    norms = SharedReducer.norms
    with patch.object(SharedReducer, "norms", wrong):
        yield


@mutant
def norms_before_all_are_there(rank: int, size: int) -> Iterator[Any]:
    """Workers do not wait for the norms of a slow one."""
    real = SharedReducer._add

    def slow(self: SharedReducer, gradients: list[Tensor], own: list[Tensor]) -> Tensor:
        time.sleep(0.01 * rank)
        return real(self, gradients, own)

    with patch.object(SharedReducer, "_add", slow), without_waiting("gradient.norms"):
        yield


@mutant
def sums_before_all_are_there(rank: int, size: int) -> Iterator[Any]:
    """Workers add the gradients of a slow one before its backward pass is complete."""
    real, backward = SharedReducer.reduce, TrainStep._backward

    def slow(self: TrainStep, batch: Batch) -> Losses:
        time.sleep(0.05 * rank)
        return backward(self, batch)

    def wrong(self: SharedReducer, token_ids: Tensor) -> None:
        with patch.object(World, "allreduce", lambda self, tensor, name: tensor):
            real(self, token_ids)
        self.world.allreduce(self._flat.control_slots, "gradient.control")

    with patch.object(TrainStep, "_backward", slow), patch.object(SharedReducer, "reduce", wrong):
        yield


@mutant
def weights_before_all_are_there(rank: int, size: int) -> Iterator[Any]:
    """Workers begin a step with weights that a slow one has not updated yet."""
    real = TrainStep._clip

    def slow(self: TrainStep, norm: float) -> None:
        time.sleep(0.05 * rank)
        real(self, norm)

    with patch.object(TrainStep, "_clip", slow), without_waiting("gradient.updated"):
        yield


@contextmanager
def without_waiting(name: str) -> Iterator[None]:
    """The all-reduce of this name follows at the next one's, too late for what it separates."""
    real, late = World.allreduce, []

    def allreduce(self: World, tensor: Tensor, other: str) -> Tensor:
        if other == name:
            late.append(tensor.clone())
            return tensor
        while late:
            real(self, late.pop(), name)
        return real(self, tensor, other)

    with patch.object(World, "allreduce", allreduce):
        yield


SHARED_MISTAKES = tuple(name for name in MUTANTS if name not in MISTAKES)
MUTANTS |= {
    "loss_scaled": loss_scaled, "all_rows": all_rows, "rows_not_squared": rows_not_squared,
}  # fmt: skip
MUTANTS |= {"no_memory": no_memory, "no_memory_to_evaluate": no_memory_to_evaluate}
