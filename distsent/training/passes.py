"""Forward and backward of a micro-batch, which add to the gradients and to two control slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from distsent.batching.packing import PackedBatch
from distsent.evaluation.tasks.task import Task
from distsent.model.forward import Forward, autocast
from distsent.training.flat_parameters import FlatParameters

LOSS, RIGHT = range(2)  # indices of control slots


@dataclass(frozen=True)
class TrainingLoss:
    """The task's loss per example, with what the job changes about it for the training."""

    task: Task
    label_smoothing: float = 0.0
    weights_C: Tensor | None = None

    def __call__(self, logits_nC: Tensor, labels: Tensor) -> Tensor:
        return self.task.losses(logits_nC.float(), labels, self.label_smoothing, self.weights_C)


@dataclass
class Pass:
    """One micro-batch at a time. It reads no value: so it can be recorded."""

    forward: Forward
    flat: FlatParameters
    loss: TrainingLoss
    precision: str

    def __call__(self, packed: PackedBatch, factor_n: Tensor) -> Tensor:
        """The loss of each example. `factor_n`: by which it counts; 0: not an example."""
        with autocast(packed.ids_T.device, self.precision):
            logits_nC = self.forward(packed)
        losses_n = self.loss(logits_nC, packed.labels_n)
        (losses_n * factor_n).sum().backward()
        with torch.no_grad():
            real_n, slots = factor_n != 0, self.flat.control_slots
            slots[LOSS] += torch.where(real_n, losses_n, 0.0).sum()
            right_n = self.loss.task.right(logits_nC, packed.labels_n)
            slots[RIGHT] += (right_n & real_n[: len(right_n)]).sum()
        return losses_n.detach()


class Passes(Protocol):
    """Runs passes over packed batches."""

    def __call__(self, batch: PackedBatch, factor: float) -> Tensor:
        """The loss of each example. `factor`: by which an example's loss counts."""

    def forget(self) -> bool:
        """Free the memory that is kept from pass to pass. False: there is none."""


@dataclass(frozen=True)
class EachAsItComes:
    run: Pass

    def __call__(self, batch: PackedBatch, factor: float) -> Tensor:
        ones = torch.ones(batch.texts, device=batch.ids_T.device)
        return self.run(batch, ones * factor)

    def forget(self) -> bool:
        return False
