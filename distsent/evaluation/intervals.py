"""95 % confidence intervals of scores, over the choice of the rows that are in the split."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from distsent.evaluation.metrics import average_scores

Z = 1.959963984540054  # 97.5 % of a normal distribution lie below
DRAWS = 2000


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Interval of a proportion (Wilson, 1927): unlike the normal one, it stays within [0, 1]."""
    share = successes / n
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, center - margin), min(1.0, center + margin)


def resampled_counts(counts: np.ndarray) -> Iterator[np.ndarray]:
    """DRAWS times the counts [k] of kinds of rows, had other rows been drawn into the split.

    Resampling rows is resampling counts of equal rows, so the rows themselves are not needed.
    """
    rng, shares = np.random.default_rng(0), counts / counts.sum()
    return (rng.multinomial(counts.sum(), shares) for _ in range(DRAWS))  # one in memory at a time


def scores_of_counts(
    labels: np.ndarray, predicted: np.ndarray, counts: np.ndarray, classes: int
) -> dict[str, float]:
    """`average_scores` of rows given as counts [k] of kinds: true and predicted classes [k]."""
    correct = counts * (labels == predicted)
    pairs = ((labels, correct), (labels, counts), (predicted, counts))
    return average_scores(*(np.bincount(i, n, classes) for i, n in pairs))[0]


def score_intervals(confusion: Sequence[Sequence[int]]) -> dict[str, tuple[float, float]]:
    """The intervals of accuracy (Wilson), f1 and f1_macro (bootstrap)."""
    cells = np.asarray(confusion, dtype=np.int64)
    # A thousand classes have a million cells, most of them 0. The last one takes the rest of a
    # draw: it stays, so that the draws are those of the whole matrix.
    kinds = np.flatnonzero(cells)
    kinds = np.union1d(kinds, cells.size - 1)
    labels, predicted = np.unravel_index(kinds, cells.shape)
    draws = [
        scores_of_counts(labels, predicted, counts, len(cells))
        for counts in resampled_counts(cells.ravel()[kinds])
    ]
    intervals = {"accuracy": wilson_interval(int(np.trace(cells)), int(cells.sum()))}
    for key in ("f1", "f1_macro"):
        low, high = np.quantile([draw[key] for draw in draws], [0.025, 0.975])
        intervals[key] = float(low), float(high)
    return intervals
