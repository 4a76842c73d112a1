"""How far a run is: all that a checkpoint must hold beside the tensors. Plain numbers, equal on every worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Epoch:
    """Sums over the epoch so far: its training loss and accuracy are taken from these, once."""

    examples: int = 0
    loss_sum: float = 0.0
    right: int = 0


@dataclass
class TrainState:
    step: int = 0  # steps taken; the next batch is number `step`
    samples: int = 0
    tokens: int = 0
    work: float = 0.0  # useful floating-point operations
    sent: int = 0  # bytes that a worker handed over in exchanges
    seconds: float = 0.0  # spent in steps, evaluations and saves not counted
    skipped: int = 0  # steps left out because a number went bad
    overflows: int = 0  # fp16: steps left out because the scaled gradient did not fit
    epoch: Epoch = field(default_factory=Epoch)
    history: list[dict[str, Any]] = field(default_factory=list)  # one record an evaluation
    best: dict[str, Any] | None = None  # {"step", "value"}: only a validation split chooses
    stale: int = 0  # evaluations since the best one
    ended_early: bool = False

    @property
    def evaluated(self) -> int:
        """The step of the last evaluation, 0 before the first."""
        return int(self.history[-1]["step"]) if self.history else 0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TrainState:
        return cls(**{**state, "epoch": Epoch(**state["epoch"])})
