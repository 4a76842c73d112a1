"""95 % confidence intervals of scores, over the choice of the rows that are in the split."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from distsent.evaluation.metrics import Counts

Z = 1.959963984540054  # 97.5 % of a normal distribution lie below
DRAWS = 2000


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Interval of a proportion (Wilson, 1927): unlike the normal one, it stays within [0, 1]."""
    share = successes / n
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, center - margin), min(1.0, center + margin)


def bootstrap_interval(
    confusion: Sequence[Sequence[int]], score: Callable[[np.ndarray], float]
) -> tuple[float, float]:
    """Interval of a score of the confusion matrix.

    Resampling rows is resampling cells of the matrix, so the rows themselves are not needed.
    """
    cells = np.asarray(confusion, dtype=np.int64)
    n = cells.sum()
    draws = np.random.default_rng(0).multinomial(n, cells.ravel() / n, size=DRAWS)
    low, high = np.quantile([score(draw.reshape(cells.shape)) for draw in draws], [0.025, 0.975])
    return float(low), float(high)


def f1_of_confusion(confusion: np.ndarray, key: str = "f1") -> float:
    """F1 of a confusion matrix, as `Counts` computes it; `key`: f1 or f1_macro."""
    counts = Counts(len(confusion))
    counts.confusion[:] = confusion
    return float(counts.scores([""] * len(confusion))[key])


def score_intervals(confusion: Sequence[Sequence[int]]) -> dict[str, tuple[float, float]]:
    """The intervals of accuracy (Wilson), f1 and f1_macro (bootstrap)."""
    cells = np.asarray(confusion, dtype=np.int64)
    return {
        "accuracy": wilson_interval(int(np.trace(cells)), int(cells.sum())),
        "f1": bootstrap_interval(confusion, f1_of_confusion),
        "f1_macro": bootstrap_interval(confusion, lambda draw: f1_of_confusion(draw, "f1_macro")),
    }
