"""One training step. The order matters, and only this file defines it:

1. forward and backward of every micro-batch (passes.py). An example's loss counts as its share of
   the global batch, times the fp16 loss scale
2. all-reduce: gradients and control slots are summed over the workers. Buckets of gradients may
   leave during the last backward pass; the control slots leave last, with the squared norm of this
   worker's own gradient
3. all workers read the same control slots: the loss, requests, non-finite numbers
4. unscale (fp16), take the norm of the complete gradient, clip by it
5. optimizer step, at the schedule's learning rate. Workers that share their weights (see
   shared_reducer.py) sum, clip and update a part each
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from distsent.batching.batch_plan import Batch
from distsent.errors import MORE_MEMORY, UserError, out_of_memory
from distsent.job.schema import OptimSection
from distsent.model.forward import Forward
from distsent.training import half_weights
from distsent.training.exchange import Exchange
from distsent.training.optimizer import Optimizer, Schedule
from distsent.training.passes import EachAsItComes, Pass, Passes

# Indices of control slots, after those of passes.py and exchange.py
STOP, SAVE, REJOIN, MEMORY = range(3, 7)


# The rows of this worker's micro-batches, and their losses
Losses = list[tuple[np.ndarray, torch.Tensor]]


@dataclass(frozen=True)
class StopRequests:
    """What a worker requests after a step."""

    stop: bool = False
    save: bool = False
    rejoin: bool = False  # form a new world: elastic workers wait to join, or leave


@dataclass(frozen=True)
class StepResult:
    """The outcome of a step, equal on all workers but for `bad_rows`."""

    loss: float  # mean over the global batch
    grad_norm: float  # before clipping
    own_square: float  # sum of the squared norms of the workers' own gradients, unscaled
    lr: float
    right: int  # examples that were predicted right
    requested: StopRequests  # by any worker
    finite: bool
    overflowed: bool  # not finite, and the fp16 loss scale may be the reason
    bad_rows: tuple[int, ...]  # this worker's examples with a non-finite loss


def bad_rows(losses: Losses) -> tuple[int, ...]:
    """The rows whose loss is not finite."""
    found = [rows[~torch.isfinite(losses_n).cpu().numpy()] for rows, losses_n in losses]
    return tuple(int(row) for each in found for row in each)


@dataclass
class LossScale:
    """Doubles after 2,000 good fp16 steps, halves after a bad one (Micikevicius et al., 2018)."""

    value: float = 1.0
    good_steps: int = 0

    def update(self, finite: bool) -> None:
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps % 2000 == 0:
            self.value *= 2


class TrainStep:
    """Forward, backward, all-reduce, unscale, clip, optimizer step."""

    def __init__(
        self,
        run: Pass,
        reducer: Exchange,
        optim: OptimSection,
        schedule: Schedule,
        passes: Passes | None = None,
    ) -> None:
        """`passes`: runs `run` over micro-batches; None: each as it comes."""
        self.run, self.flat, self.reducer = run, run.flat, reducer
        flat, precision = run.flat, run.precision
        self._passes = EachAsItComes(run) if passes is None else passes
        self.optimizer = Optimizer(optim, flat, reducer.part)
        self.scales = precision == "fp16"  # gradients are scaled, and a step may overflow
        self.scale = LossScale(2.0**16 if self.scales else 1.0)
        self._schedule = schedule
        if precision in half_weights.DTYPES:
            flat.use_half(run.forward.model, half_weights.DTYPES[precision])
        self.advice = MORE_MEMORY  # what to do if there is no memory for a step
        self._clip_norm = optim.clip_norm
        self._token_ids = torch.empty(0, dtype=torch.long, device=flat.values.device)

    def __call__(
        self, batch: Batch, requests: Callable[[], StopRequests] = StopRequests
    ) -> StepResult:
        """Train on `batch`. `requests` is called late: a signal during the step still counts, and
        a GPU computes meanwhile.

        Raises UserError on all workers if one of them runs out of memory.
        """
        losses, problem = self._backward_in_memory(batch)
        wanted, slots = requests(), self.flat.control_slots
        slots[STOP], slots[SAVE] = float(wanted.stop), float(wanted.save)
        slots[REJOIN] = float(wanted.rejoin)
        slots[MEMORY] = float(problem is not None)
        self.reducer.reduce(batch.token_ids)
        loss, right, _, stop, save, rejoin, memory = slots.tolist()
        if memory:
            self.reducer.world.raise_together(problem, "step.memory")
        # As in Hugging Face's Trainer, a skipped step does not advance the schedule.
        lr = self._schedule.lr * self._schedule.factor(self.updates)
        norm, own_square = self._norms()
        finite = math.isfinite(loss) and math.isfinite(norm)
        overflowed = not finite and self.scales and math.isfinite(loss) and self.scale.value > 1
        if finite:
            self._clip(norm)
            self.optimizer.step(self._token_ids, lr)
            self.reducer.finish()
        if self.scales:
            self.scale.update(finite)
        requested, mean_loss = StopRequests(stop > 0, save > 0, rejoin > 0), loss / len(batch)
        outcome = finite, overflowed, () if math.isfinite(loss) else bad_rows(losses)
        return StepResult(mean_loss, norm, own_square, lr, round(right), requested, *outcome)

    def free(self) -> bool:
        """Free the memory that is kept from step to step. False: there is none."""
        return self._passes.forget()

    @property
    def forward(self) -> Forward:
        return self.run.forward

    @property
    def updates(self) -> int:
        """Optimizer steps: fewer than all steps if some were skipped."""
        return self.optimizer.updates

    def _backward_in_memory(self, batch: Batch) -> tuple[Losses, UserError | None]:
        """`_backward`, and the error if there is no memory for it: all workers must learn of it."""
        half = self.flat.half
        try:
            with nullcontext() if half is None else half.fresh():
                return self._backward(batch), None
        except (MemoryError, RuntimeError) as error:
            problem = out_of_memory(error, "training", self.advice)
        if self.free():
            return self._backward_in_memory(batch)
        return [], problem

    def _backward(self, batch: Batch) -> Losses:
        """Accumulate the gradient. A GPU may still compute when this returns."""
        self.flat.zero_grads(self._token_ids)
        self._token_ids = batch.token_ids
        losses: Losses = []
        for i, (rows, packed) in enumerate(batch.micro_batches()):
            last = i + 1 == len(batch.micro_rows)
            if last:
                self.reducer.arm()
            losses.append((rows, self._passes(packed, self.scale.value / len(batch))))
            self.reducer.end_pass(last)
            self.reducer.world.progress.worked()
        return losses

    def _norms(self) -> tuple[float, float]:
        """Of the complete gradient, and of the workers' own (squared, added), unscaled."""
        norm, own_square = self.reducer.norms(self._token_ids)
        return norm / self.scale.value, own_square / self.scale.value**2

    def _clip(self, norm: float) -> None:
        """Unscale and clip this worker's part, in one product. Untouched rows are zero."""
        limit, flat, part = self._clip_norm, self.flat, self.reducer.part
        factor = (min(1.0, limit / (norm + 1e-6)) if limit > 0 else 1.0) / self.scale.value
        if factor == 1.0:
            return
        flat.dense[part.dense].mul_(factor)
        if flat.embedding_grad is not None:
            ids = part.own_rows(self._token_ids)
            flat.embedding_grad.index_copy_(0, ids, flat.embedding_grad[ids] * factor)
