"""Adam and AdamW over the flat buffer, and how the learning rate runs."""

from __future__ import annotations

import math

import torch

from distsent.job.schema import OptimSection
from distsent.training.flat_parameters import FlatParameters


def build(optim: OptimSection, flat: FlatParameters) -> torch.optim.Optimizer:
    """torch's optimizer on the flat stretches; `adam` adds weight decay to the gradient, `adamw` takes it off the weights."""
    groups = []
    for values, grads, decays in flat.groups():
        parameter = torch.nn.Parameter(values)
        parameter.grad = grads
        groups.append(
            {"params": [parameter], "weight_decay": optim.weight_decay if decays else 0.0}
        )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optim.name]
    return kind(groups, lr=optim.lr, betas=tuple(optim.betas), eps=optim.eps, fused=True)


def warmup_steps(warmup: float, total: int) -> int:
    """`optim.warmup` in steps: below 1 a share of the run (rounded up, as Hugging Face does), else a count."""
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def factor(schedule: str, step: int, warmup: int, total: int) -> float:
    """What the learning rate is multiplied with at `step` (from 0): rises over `warmup` steps, then falls to 0 at `total`."""
    if step < warmup:
        return step / max(1, warmup)
    if schedule == "constant":
        return 1.0
    progress = (step - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1 + math.cos(math.pi * progress)))
    return max(0.0, 1 - progress)


def moments(optimizer: torch.optim.Optimizer) -> dict[str, list[torch.Tensor]]:
    """Adam's state, `exp_avg` and `exp_avg_sq`, each in the stretches of `FlatParameters.groups`; empty before the first step."""
    states = [optimizer.state[group["params"][0]] for group in optimizer.param_groups]
    if not all(states):
        return {}
    return {key: [state[key] for state in states] for key in ("exp_avg", "exp_avg_sq")}


def restore(
    optimizer: torch.optim.Optimizer, flat_moments: dict[str, torch.Tensor], updates: int
) -> None:
    """Put back what `moments` gave after `updates` steps of the optimizer, each as one flat tensor."""
    start = 0
    for group in optimizer.param_groups:
        parameter = group["params"][0]
        stop = start + parameter.numel()
        optimizer.state[parameter] = {
            "step": torch.tensor(float(updates), device=parameter.device),
            **{key: value[start:stop].clone() for key, value in flat_moments.items()},
        }
        start = stop
