"""How fast one worker computes: measured for shares of several sizes, or from a description."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distsent.planning.fit import fit_times


@dataclass(frozen=True)
class Share:
    """A measured step of one worker, without exchange."""

    micro_batches: float
    flops: float  # forward and backward
    seconds: float


@dataclass(frozen=True)
class SharedTimes:
    """Seconds of a step of workers that share their weights (training/shared_reducer.py)."""

    exchange: float
    update: float


@dataclass(frozen=True)
class Speed:
    """Seconds of one worker, while all workers of its machine compute."""

    update: float  # per step: zeroing, norm, clipping, optimizer
    micro_batch: float
    flop: float

    def compute(self, micro_batches: np.ndarray, flops: np.ndarray) -> np.ndarray:
        """Seconds of forward and backward, in the shape of both arrays."""
        return self.micro_batch * micro_batches + self.flop * flops


def fit_speed(measured: Sequence[Share]) -> Speed:
    """Needs a step without any micro-batch among the shares: it is the update alone."""
    parts = np.array([(1.0, each.micro_batches, each.flops) for each in measured])
    return Speed(*fit_times(parts, [each.seconds for each in measured]))
