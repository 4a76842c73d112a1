"""One update of the weights. The order matters, and this is the only place that holds it:

1. forward and backward of every micro-batch: each example's loss / examples of the global batch (times the fp16 scale)
2. exchange: gradients and control_slots are added up over the workers - sums, never means of means (a gradient may leave while the last
   backward pass goes on; the control_slots leave last)
3. everybody reads the same control_slots: the batch's loss, who wants to stop, who met a bad number
4. unscale (fp16), then the norm of the whole gradient, then clip by it
5. the optimizer's step, at the rate that the schedule gives for this step
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from distsent.batching.batch_plan import Batch, BatchPlan
from distsent.job.schema import OptimSection, TrainSection
from distsent.model.forward import Forward, autocast
from distsent.training import optimizer as optimizers
from distsent.training.flat_parameters import FlatParameters
from distsent.training.reducer import GradientReducer

LOSS, RIGHT, STOP, SAVE, BAD, RENEW = range(6)  # places among the control_slots


@dataclass(frozen=True)
class StopRequests:
    """What one worker wants to happen after the step."""

    stop: bool = False
    save: bool = False
    rejoin: bool = False  # meet other workers


@dataclass(frozen=True)
class StepResult:
    """What all workers know after a step; `stop`, `save`, `renew`: what any of them wanted."""

    loss: float
    grad_norm: float
    lr: float
    right: int  # examples whose label was predicted
    stop: bool
    save: bool
    rejoin: bool
    finite: bool
    overflowed: bool  # not finite, and in fp16 the scale may be why
    bad_rows: tuple[int, ...]  # this worker's examples whose loss is no number


@dataclass
class LossScale:
    """fp16's loss scaling: doubled after 2,000 good steps, halved after a bad one (Micikevicius et al., 2018)."""

    value: float = 1.0
    good_steps: int = 0

    def learn(self, finite: bool) -> None:
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.value = max(1.0, self.value / 2)
        elif self.good_steps % 2000 == 0:
            self.value *= 2


class TrainStep:
    """Forward, backward, exchange, unscale, clip, step."""

    def __init__(
        self, forward: Forward, flat: FlatParameters, exchange: GradientReducer, plan: BatchPlan, train: TrainSection, optim: OptimSection,
        precision: str, seed: int, total_steps: int, class_weights: torch.Tensor | None,
    ) -> None:  # fmt: skip
        self.flat, self.optimizer = flat, optimizers.build(optim, flat)
        self.scales = precision == "fp16"  # gradients travel scaled, and a step may overflow
        self.scale = LossScale(2.0**16 if self.scales else 1.0)
        self.updates = 0  # steps that the optimizer took: fewer than all where fp16 overflowed
        self.forward, self.exchange, self._plan = forward, exchange, plan
        self._optim, self._precision, self._seed, self._total = optim, precision, seed, total_steps
        self._smoothing, self._weights = train.label_smoothing, class_weights
        self._warmup = optimizers.warmup_steps(optim.warmup, total_steps)
        self._touched = torch.empty(0, dtype=torch.long, device=flat.values.device)

    def __call__(
        self, batch: Batch, wishes: Callable[[], StopRequests] = StopRequests
    ) -> StepResult:
        """Train on `batch`. `wishes` is asked as late as can be, before the control_slots leave: a signal costs no further step."""
        bad_rows = self._backward(batch)
        wish = wishes()
        for rider, value in {
            STOP: wish.stop,
            SAVE: wish.save,
            RENEW: wish.rejoin,
            BAD: len(bad_rows),
        }.items():
            self.flat.control_slots[rider] = float(value)
        self.exchange.sum(batch.touched)
        loss, right, stops, saves, bad, renews = self.flat.control_slots[:6].tolist()
        # A step that was skipped does not advance the schedule, as with Hugging Face's Trainer.
        lr = self._optim.lr * optimizers.factor(
            self._optim.schedule, self.updates, self._warmup, self._total
        )
        norm = self._norm()
        finite = bad == 0 and math.isfinite(loss) and math.isfinite(norm)
        overflowed = not finite and self.scales and math.isfinite(loss) and self.scale.value > 1
        if finite:
            self._clip(norm)
            self._step(lr)
        if self.scales:
            self.scale.learn(finite)
        return StepResult(
            loss / len(batch),
            norm,
            lr,
            round(right),
            stops > 0,
            saves > 0,
            renews > 0,
            finite,
            overflowed,
            tuple(bad_rows),
        )

    def _backward(self, batch: Batch) -> list[int]:
        self.flat.clear(self._touched)
        self._touched = batch.touched
        drops = self.forward.model.training
        bad_rows: list[int] = []
        for rows in batch.micro:
            stream = self._plan.pack(rows, self._seed, batch.step, drops)
            with autocast(stream.ids_T.device, self._precision):
                logits_nC = self.forward(stream)
            losses_n = F.cross_entropy(
                logits_nC.float(),
                stream.labels_n,
                reduction="none",
                label_smoothing=self._smoothing,
            )
            if self._weights is not None:
                losses_n = losses_n * self._weights[stream.labels_n]
            loss = losses_n.sum()
            if rows is batch.micro[-1]:
                self.exchange.expect()
            (loss * (self.scale.value / len(batch))).backward()
            self.flat.control_slots[LOSS] += loss.detach()
            self.flat.control_slots[RIGHT] += (logits_nC.argmax(-1) == stream.labels_n).sum()
            if not torch.isfinite(loss):
                bad_rows += rows[~torch.isfinite(losses_n).cpu().numpy()].tolist()
        return bad_rows

    def _norm(self) -> float:
        """The norm of the unscaled gradient; untouched rows of the word table are zero and need no look."""
        norm = torch.linalg.vector_norm(self.flat.dense[: -len(self.flat.control_slots)])
        if self.flat.table is not None:
            norm = torch.hypot(norm, torch.linalg.vector_norm(self.flat.table[self._touched]))
        return float(norm) / self.scale.value

    def _clip(self, norm: float) -> None:
        limit = self._optim.clip_norm
        factor = (min(1.0, limit / (norm + 1e-6)) if limit > 0 else 1.0) / self.scale.value
        if factor != 1.0:
            self.flat.dense.mul_(factor)
            if self.flat.table is not None:
                self.flat.table.index_copy_(
                    0, self._touched, self.flat.table[self._touched] * factor
                )

    def _step(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.updates += 1
