"""How far a run is: the plain numbers in a checkpoint, equal on all workers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class EpochSums:
    """Sums over the current epoch, for its training loss and accuracy."""

    examples: int = 0
    loss_sum: float = 0.0
    right: int = 0  # examples whose label was predicted


@dataclass
class TrainState:
    """Updated by the training loop alone. The field names are those of `state.json`."""

    step: int = 0  # steps done; the next batch is number `step`
    samples: int = 0
    tokens: int = 0
    work: float = 0.0  # useful floating-point operations
    sent: int = 0  # bytes that one worker sent in gradient exchanges
    seconds: float = 0.0  # spent in steps, without evaluations and checkpoints
    skipped: int = 0  # steps skipped because of a non-finite number
    overflows: int = 0  # fp16: steps skipped because the scaled gradient overflowed
    epoch: EpochSums = field(default_factory=EpochSums)
    history: list[dict[str, Any]] = field(default_factory=list)  # one record per evaluation
    best: dict[str, Any] | None = None  # {"step", "value"}, chosen on a validation split only
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
        return cls(**{**state, "epoch": EpochSums(**state["epoch"])})
