"""Adam and AdamW over the flat parameters, and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from distsent.job.schema import OptimSection
from distsent.training.exchange import Part
from distsent.training.flat_parameters import FlatParameters


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a pure function of the step: warmup, then `kind` down to `total`."""

    kind: str
    lr: float
    warmup: int
    total: int

    @classmethod
    def from_job(cls, optim: OptimSection, total: int) -> Schedule:
        """`optim.warmup` below 1 is a share of the run, rounded up as Hugging Face does."""
        warmup = math.ceil(optim.warmup * total) if optim.warmup < 1 else int(optim.warmup)
        return cls(optim.schedule, optim.lr, warmup, total)

    def factor(self, step: int) -> float:
        """Of `lr` at `step` (from 0). After the warmup it falls unless `kind` is constant."""
        if step < self.warmup:
            return step / max(1, self.warmup)
        if self.kind == "constant":
            return 1.0
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        falling = (
            0.5 * (1 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1 - progress
        )
        return max(0.0, falling)


def build_optimizer(optim: OptimSection, flat: FlatParameters, part: Part) -> torch.optim.Optimizer:
    """torch's optimizer over a part of `flat`: views of its values, gradients and moments.

    `adam` adds weight decay to the gradient, `adamw` subtracts it from the weights.
    """
    groups, states = [], {}
    for span in part.spans(flat):
        decayed = slice(span.start, min(span.stop, flat.decayed))
        undecayed = slice(max(span.start, flat.decayed), span.stop)
        for views, decay in ((decayed, optim.weight_decay), (undecayed, 0.0)):
            if views.start < views.stop:
                parameter = torch.nn.Parameter(flat.values[views])
                parameter.grad = flat.grads[views]
                groups.append({"params": [parameter], "weight_decay": decay})
                moments = {key: moment[views] for key, moment in flat.moments.items()}
                states[parameter] = {"step": flat.values.new_zeros(()), **moments}
    if not groups:  # a small model, many workers; torch refuses an empty list
        groups = [{"params": [torch.nn.Parameter(flat.values[:0])]}]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    optimizer = kind(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)
    optimizer.state.update(states)
    return optimizer
