"""Adam and AdamW over the flat parameters, and the learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from distsent.job.schema import OptimSection
from distsent.training.exchange import Part
from distsent.training.flat_parameters import FlatParameters
from distsent.training.touched_rows import TouchedRows, skips_rows


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


class Optimizer:
    """torch's Adam over a part of `flat`: views of its values, gradients and moments.

    `adam` adds weight decay to the gradient, `adamw` subtracts it from the weights.
    """

    def __init__(self, optim: OptimSection, flat: FlatParameters, part: Part) -> None:
        self._part, self._rows, spans = part, None, part.spans(flat)
        if skips_rows(optim, flat):
            self._rows = TouchedRows(optim, flat, part.rows)
            spans = [part.dense_span(flat)]
        self._torch = torch_optimizer(optim, flat, spans)
        self.updates = 0  # steps so far

    def step(self, token_ids: torch.Tensor, lr: float) -> None:
        """`token_ids`: of the global batch."""
        for group in self._torch.param_groups:
            group["lr"] = lr
        self._torch.step()
        if self._rows is not None:
            self._rows.step(self._part.own_rows(token_ids), lr, self.updates)
        self.updates += 1

    def expect(self, token_ids: torch.Tensor) -> None:
        """For a measurement: steps take as long as in a training that has had these tokens."""
        if self._rows is not None:
            self._rows.touch(self._part.own_rows(token_ids), self.updates)

    def resume(self, updates: int) -> None:
        """The moments are those after `updates` steps, or will be when the next step begins."""
        self.updates = updates
        for state in self._torch.state.values():
            state["step"].fill_(updates)
        if self._rows is not None:
            self._rows.forget()


def torch_optimizer(
    optim: OptimSection, flat: FlatParameters, spans: Iterable[slice]
) -> torch.optim.Optimizer:
    """torch's optimizer over `spans` of the values, which may be empty."""
    groups, states = [], {}
    for span in spans:
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
