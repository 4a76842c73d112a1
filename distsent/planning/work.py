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

MOST_EXAMPLES = 100_000  # of a sample: a step of a huge batch says enough


@dataclass(frozen=True)
class ModelSize:
    """Parameters, and the bytes that a forward pass keeps for backward."""

    trained: int
    frozen: int
    embedding: int  # trained parameters of the token embedding, which travel by rows
    width: int  # of a row of it
    activation_bytes: float  # per token of a micro-batch

    @classmethod
    def of(cls, model: nn.Module, embedding: nn.Embedding, activation_bytes: float) -> ModelSize:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters()) - trained
        rows = embedding.weight if embedding.weight.requires_grad else None
        size = 0 if rows is None else rows.numel()
        return cls(trained, frozen, size, embedding.weight.shape[1], activation_bytes)

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
    most_tokens: int  # of a micro-batch
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
    plan, sampler = plan.for_worker(0, workers), plan.sampler
    steps = max(4, min(BLOCK, MOST_EXAMPLES // sampler.batch_size))
    steps = min(steps, sampler.steps_per_epoch)
    micro_SR, flops_SR = np.zeros((steps, workers)), np.zeros((steps, workers))
    examples, tokens, touched, most = 0, 0, 0, 0
    started, counting = time.thread_time(), 0.0
    for step in range(steps):
        batch = plan.batch(step)
        began = time.thread_time()
        rows, lengths, owner = plan.assigned(step)
        micro_SR[step], flops_SR[step], longest = count_shares(plan, rows, lengths, owner)
        examples, tokens = examples + len(rows), tokens + int(lengths.sum())
        touched, most = touched + len(batch.token_ids), max(most, longest)
        counting += time.thread_time() - began
    planning = (time.thread_time() - started - counting) / steps
    messages = model.messages(touched / steps)
    means = examples / steps, tokens / steps
    return Work(micro_SR, flops_SR, *means, messages, model.late, most, planning)


def count_shares(
    plan: BatchPlan, rows: np.ndarray, lengths: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """Micro-batches and operations of each worker's share, and tokens of the largest one."""
    counter, windows = plan.flops, plan.tokens.window_lengths(rows)
    costs = cost(windows, counter.per_token, counter.per_pair) + counter.per_example
    weights = counter.passes * plan.tokens.sum_windows(costs, rows)
    flops = np.bincount(owner, weights=weights, minlength=plan.size)
    tokens = np.bincount(owner, weights=lengths, minlength=plan.size)
    micro, within = (tokens > 0).astype(np.float64), tokens[tokens <= plan.token_budget]
    most = int(within.max(initial=0))
    for rank in np.flatnonzero(tokens > plan.token_budget):
        own = lengths[owner == rank]
        groups = micro_batches(own, plan.token_budget)
        micro[rank], most = len(groups), max(most, *(int(own[group].sum()) for group in groups))
    return micro, flops, most
