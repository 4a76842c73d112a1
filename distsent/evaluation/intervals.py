"""95 % confidence intervals of scores, over the choice of the rows that are in the split."""

import math
from collections.abc import Iterator

import numpy as np

Z = 1.959963984540054  # 97.5 % of a normal distribution lie below
DRAWS = 2000
MAX_BLOCKS = 20_000  # of rows that are drawn together
TOGETHER = 50  # draws that one matrix product sums


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Interval of a proportion (Wilson, 1927): unlike the normal one, it stays within [0, 1]."""
    share = successes / n
    center = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    margin = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n)) / (1 + Z * Z / n)
    return max(0.0, center - margin), min(1.0, center + margin)


def paired_interval(first: int, second: int, n: int) -> tuple[float, float]:
    """Interval of a difference of two proportions of the same n rows (Agresti and Min, 2005).

    `first`, `second`: rows that only one of them counts. It is wide where n is small, even if there
    are no such rows.
    """
    a, b, m = first + 0.5, second + 0.5, n + 2
    center, margin = (a - b) / m, Z * math.sqrt(a + b - (a - b) ** 2 / m) / m
    return max(-1.0, center - margin), min(1.0, center + margin)


def resampled_counts(counts: np.ndarray) -> Iterator[np.ndarray]:
    """DRAWS times the counts [k] of kinds of rows, had other rows been drawn into the split.

    Resampling rows is resampling counts of equal rows, so the rows themselves are not needed.
    """
    rng, shares = np.random.default_rng(0), counts / counts.sum()
    return (rng.multinomial(counts.sum(), shares) for _ in range(DRAWS))  # one in memory at a time


def resampled_sums(values_nK: np.ndarray) -> np.ndarray:
    """Sums over rows, float64 [DRAWS, K], had other rows been drawn into the split.

    Of more than MAX_BLOCKS rows, as many blocks are drawn, of rows drawn at random: their sums vary
    as those of the rows.
    """
    rng, blocks = np.random.default_rng(0), min(len(values_nK), MAX_BLOCKS)
    if blocks < len(values_nK):
        order = np.array_split(rng.permutation(len(values_nK)), blocks)
        starts = np.cumsum([0, *map(len, order[:-1])])
        values_nK = np.add.reduceat(values_nK[np.concatenate(order)], starts, axis=0)
    sums = np.empty((DRAWS, values_nK.shape[1]))
    drawn = np.empty((TOGETHER, blocks))
    for start in range(0, DRAWS, TOGETHER):
        for i in range(TOGETHER):
            drawn[i] = np.bincount(rng.integers(blocks, size=blocks), minlength=blocks)
        sums[start : start + TOGETHER] = drawn @ values_nK
    return sums


def middle(draws: np.ndarray) -> tuple[float, float]:
    """Where the middle 95 % of draws lie."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
