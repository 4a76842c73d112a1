"""What a step asks of each of R workers: counted over a sample of the job's own steps.

So the imbalance of a batch over its workers and the rows of the embedding that travel are those of
the training, not of a model of it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from torch import nn

from distsent.batching.balance import cost, micro_batches
from distsent.batching.batch_plan import BLOCK, BatchPlan
from distsent.training.flat_parameters import CONTROL_SLOTS
from distsent.training.reducer import BUCKET
from distsent.training.worker_memory import WorkerMemory

MOST_EXAMPLES = 100_000  # of a sample: a step of a huge batch says enough


@dataclass(frozen=True)
class ModelSize:
    """Trained parameters, and the memory of a worker that trains them."""

    memory: WorkerMemory
    embedding: int  # trained parameters of the token embedding, which travel by rows
    width: int  # of a row of it

    @property
    def trained(self) -> int:
        return self.memory.trained

    @classmethod
    def of(cls, memory: WorkerMemory, embedding: nn.Embedding) -> ModelSize:
        weight = embedding.weight
        size = weight.numel() if weight.requires_grad else 0
        return cls(memory, size, weight.shape[1])

    def messages(self, touched_rows: float) -> tuple[float, ...]:
        """Bytes of each all-reduce of a step, as GradientReducer sends them: the rows are last."""
        dense = self.trained - self.embedding + CONTROL_SLOTS
        buckets = [float(BUCKET)] * (dense // BUCKET) + [float(dense % BUCKET)]
        rows = [touched_rows * self.width] if self.embedding else []
        return tuple(4 * numbers for numbers in (*buckets, *rows) if numbers)

    @property
    def late(self) -> int:
        """How many of these cannot leave during backward: the control slots' bucket, the rows."""
        return 2 if self.embedding else 1


@dataclass(frozen=True)
class Work:
    """A sample of S steps of a job on R workers."""

    micro_batches_SR: np.ndarray
    flops_SR: np.ndarray  # forward and backward
    examples: float  # of a global batch, mean
    tokens: float  # of a global batch, mean
    messages: tuple[float, ...]  # bytes of each all-reduce
    late: int  # so many of them, the last ones, cannot leave during backward
    alive: float | None  # bytes of tensors for the micro-batch that takes most, if known
    planning: float  # seconds in which each worker plans a batch, mean

    @property
    def workers(self) -> int:
        return int(self.flops_SR.shape[1])

    @property
    def idle(self) -> int:
        """Workers without any example, even in a full batch."""
        return int((self.flops_SR.max(axis=0) == 0).sum())


def count_work(plan: BatchPlan, model: ModelSize, workers: int) -> Work:
    """Count a sample of steps from the first epoch of `plan`."""
    plan, sampler, known = plan.for_worker(0, workers), plan.sampler, model.memory.activations
    steps = max(4, min(BLOCK, MOST_EXAMPLES // sampler.batch_size))
    steps = min(steps, sampler.steps_per_epoch)
    micro_SR, flops_SR = np.zeros((steps, workers)), np.zeros((steps, workers))
    examples, tokens, touched, alive = 0, 0, 0, 0.0
    started, counting = time.thread_time(), 0.0
    for step in range(steps):
        batch = plan.batch(step)
        began = time.thread_time()
        rows, lengths, owner = plan.assigned(step)
        micro_SR[step], flops_SR[step], *sums = count_shares(plan, rows, lengths, owner)
        examples, tokens = examples + len(rows), tokens + int(lengths.sum())
        touched += len(batch.token_ids)
        alive = max(alive, known.most(*sums)) if known else 0.0
        counting += time.thread_time() - began
    planning = (time.thread_time() - started - counting) / steps
    messages = model.messages(touched / steps)
    means = examples / steps, tokens / steps
    most = alive if known else None
    return Work(micro_SR, flops_SR, *means, messages, model.late, most, planning)


def count_shares(
    plan: BatchPlan, rows: np.ndarray, lengths: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Micro-batches and operations of each worker's share; tokens and pairs of each micro-batch."""
    counter, windows = plan.flops, plan.tokens.window_lengths(rows)
    costs = cost(windows, counter.per_token, counter.per_pair) + counter.per_example
    weights = counter.passes * plan.tokens.sum_windows(costs, rows)
    flops = np.bincount(owner, weights=weights, minlength=plan.size)
    number_n, worker_G = number_micro_batches(plan, lengths, owner)
    pairs = plan.tokens.sum_windows(np.square(windows, dtype=np.float64), rows)
    tokens_G, pairs_G = (np.bincount(number_n, x, len(worker_G)) for x in (lengths, pairs))
    micro = np.bincount(worker_G[tokens_G > 0], minlength=plan.size).astype(np.float64)
    return micro, flops, tokens_G, pairs_G


def number_micro_batches(
    plan: BatchPlan, lengths: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The number of each row's micro-batch, and the worker of each of G numbers."""
    tokens = np.bincount(owner, weights=lengths, minlength=plan.size)
    number_n, worker_G = owner.copy(), [*range(plan.size)]
    for rank in np.flatnonzero(tokens > plan.token_budget):
        own = np.flatnonzero(owner == rank)
        for group in micro_batches(lengths[own], plan.token_budget)[1:]:
            number_n[own[group]] = len(worker_G)
            worker_G.append(rank)
    return number_n, np.array(worker_G)
