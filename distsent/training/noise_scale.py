"""The gradient noise scale: from which batch on a larger one needs more examples.

B_simple = tr(Sigma) / |G|^2, with G the gradient of all data and Sigma the covariance of the
gradients of single examples (McCandlish et al., 2018, arXiv 1812.06162, appendix A.1).

Worker r has b_r of a batch's B examples, so its own gradient is L_r = (sum of its examples'
gradients) / B; the all-reduce makes g = sum of L_r of them. Examples are independent, thus

    E |g|^2            = |G|^2             + tr(Sigma) / B
    E sum_r |L_r|^2    = |G|^2 sum_r s_r^2 + tr(Sigma) / B        with s_r = b_r / B

The difference of both gives |G|^2, and then the first one tr(Sigma), without bias however unequal
the shares are. With equal shares these are the paper's formulas, with batches of B and B / workers.

Both estimates of one step are mostly noise, and a ratio of noise is biased. So numerator and
denominator are averaged over steps, each for itself, before they are divided. An epoch's last,
shorter batch says less and counts less. In fine-tuning, |G|^2 may stay hidden in noise; then only
what the noise scale exceeds is known.

Shares are balanced by length, not drawn at random: two workers' texts are a little more alike than
any two texts. As far as a gradient depends on its text's length, that adds to |G|^2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

DECAY = 0.99  # of the averages, per step: they look back over about 100 steps
FEWEST = 20  # steps that say something about their own spread


def estimate(shares: np.ndarray, own: float, whole: float) -> tuple[float, float] | None:
    """(tr(Sigma), |G|^2) from one step; None if one worker has all examples. Either may be < 0.

    `shares`: examples of each worker. `own`: the sum of the squared norms of the workers' own
    gradients, each divided by the examples of the batch. `whole`: the squared norm of their sum.
    """
    examples = float(shares.sum())
    among = float(((shares / examples) ** 2).sum())
    if among == 1.0 or not math.isfinite(own):  # float32 may hold a norm, but not its square
        return None
    gradient = (whole - own) / (1.0 - among)
    return examples * (whole - gradient), gradient


@dataclass
class NoiseScale:
    """Weighted sums of the estimates of all steps so far, in which older ones fade."""

    noise: float = 0.0  # tr(Sigma)
    gradient: float = 0.0  # |G|^2
    squares: float = 0.0  # of the terms of `gradient`: its variance is not larger
    steps: int = 0

    def add(self, shares: np.ndarray, own: float, whole: float) -> None:
        """A step: see `estimate`."""
        found, examples = estimate(shares, own, whole), float(shares.sum())
        if found is not None:
            self.noise = DECAY * self.noise + examples * found[0]
            self.gradient = DECAY * self.gradient + examples * found[1]
            self.squares = DECAY**2 * self.squares + (examples * found[1]) ** 2
            self.steps += 1

    @property
    def examples(self) -> float | None:
        """B_simple, in examples. None while |G|^2 is not twice its standard error."""
        return self._over(self.gradient) if self.gradient > 2 * self._error else None

    @property
    def at_least(self) -> float | None:
        """What B_simple exceeds, if |G|^2 is larger by twice its standard error."""
        return self._over(self.gradient + 2 * self._error)

    @property
    def _error(self) -> float:
        return math.sqrt(self.squares)

    def _over(self, gradient: float) -> float | None:
        known = self.steps >= FEWEST and self.noise > 0 and gradient > 0
        return self.noise / gradient if known else None

    def values(self) -> dict[str, float | None]:
        """For logs and results."""
        return {"noise_scale": self.examples, "noise_scale_at_least": self.at_least}
