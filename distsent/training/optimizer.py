"""Adam and AdamW over the flat buffer, and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from distsent.job.schema import OptimSection
from distsent.training.flat_parameters import FlatParameters

MOMENTS = ("exp_avg", "exp_avg_sq")  # Adam's state, by torch's names


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

    def lr_at(self, step: int) -> float:
        """The learning rate of step `step`, counted from 0."""
        return self.lr * self.factor(step)

    def factor(self, step: int) -> float:
        """Rises to 1 over the warmup, then falls to 0 at `total` unless `kind` is constant."""
        if step < self.warmup:
            return step / max(1, self.warmup)
        if self.kind == "constant":
            return 1.0
        progress = (step - self.warmup) / max(1, self.total - self.warmup)
        if self.kind == "cosine":
            return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
        return max(0.0, 1 - progress)


def build_optimizer(optim: OptimSection, flat: FlatParameters) -> torch.optim.Optimizer:
    """torch's optimizer on the flat parameter groups.

    `adam` adds weight decay to the gradient, `adamw` subtracts it from the weights.
    """
    groups = []
    for values, grads, decays in flat.groups():
        parameter = torch.nn.Parameter(values)
        parameter.grad = grads
        decay = optim.weight_decay if decays else 0.0
        groups.append({"params": [parameter], "weight_decay": decay})
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return kind(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, list[torch.Tensor]]:
    """Adam's moments by name, one tensor per parameter group. Empty before the first step."""
    states = [optimizer.state[group["params"][0]] for group in optimizer.param_groups]
    return {key: [state[key] for state in states] for key in MOMENTS} if all(states) else {}


def restore_moments(
    optimizer: torch.optim.Optimizer, flat_moments: dict[str, torch.Tensor], updates: int
) -> None:
    """Set Adam's moments, each given as one flat tensor, as after `updates` optimizer steps."""
    start = 0
    for group in optimizer.param_groups:
        parameter = group["params"][0]
        stop = start + parameter.numel()
        optimizer.state[parameter] = {
            "step": torch.tensor(float(updates), device=parameter.device),
            **{key: value[start:stop].clone() for key, value in flat_moments.items()},
        }
        start = stop
