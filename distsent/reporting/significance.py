"""Whether two models differ by more than chance: tests on the same rows, paired row by row."""

import math
from dataclasses import dataclass

import numpy as np

from distsent.evaluation.intervals import DRAWS, f1_of_confusion


@dataclass(frozen=True)
class PairedComparison:
    """Model b against model a.

    `only_a`, `only_b`: rows that only this model has right; `mcnemar`: exact, two-sided p.
    `accuracy`, `f1`: b minus a; `f1_interval`: 95 %, of the difference in F1; `f1_p`: two-sided,
    bootstrap.
    """

    n: int
    only_a: int
    only_b: int
    mcnemar: float
    accuracy: float
    f1: float
    f1_interval: tuple[float, float]
    f1_p: float


def compare_predictions(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, seed: int = 0
) -> PairedComparison:
    """`labels`, `a`, `b`: true classes and the predictions of the two models, int (n,)."""
    n = len(labels)
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((a != labels) & (b == labels)).sum())
    # Resampling rows is resampling counts of (true class, prediction of a, prediction of b).
    kinds, counts = np.unique(np.stack([labels, a, b]), axis=1, return_counts=True)

    def f1_difference(cells: np.ndarray) -> float:
        scores = []
        for predicted in kinds[1:]:
            confusion = np.zeros((classes, classes), dtype=np.int64)
            np.add.at(confusion, (kinds[0], predicted), cells)
            scores.append(f1_of_confusion(confusion))
        return scores[1] - scores[0]

    samples = np.random.default_rng(seed).multinomial(n, counts / n, size=DRAWS)
    draws = np.array([f1_difference(cells) for cells in samples])
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    tail = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
    p, accuracy = mcnemar(only_a, only_b), (only_b - only_a) / n
    f1, f1_p = f1_difference(counts), min(1.0, max(2 * tail, 1 / DRAWS))
    return PairedComparison(n, only_a, only_b, p, accuracy, f1, (low, high), f1_p)


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact test: if the models were equal, only_a would be Binomial(n, 1/2)."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n if n < 1000 else math.exp(math.log(2 * tail) - n * math.log(2)))
