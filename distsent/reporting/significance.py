"""Whether two models differ, or only their luck: tests on the same rows, paired row by row."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distsent.evaluation.intervals import DRAWS, f1_of_confusion


@dataclass(frozen=True)
class PairedComparison:
    """Model b held against model a. `only_a`, `only_b`: rows that just one of them has right; `mcnemar`: exact, two-sided p.

    `accuracy`, `f1`: b less a; `f1_interval`: of that difference, 95 %; `f1_p`: two-sided, bootstrapped.
    """

    n: int
    only_a: int
    only_b: int
    mcnemar: float
    accuracy: float
    f1: float
    f1_interval: tuple[float, float]
    f1_p: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_predictions(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int, seed: int = 0
) -> PairedComparison:
    """`labels`, `a`, `b`: true classes and the two predictions, int (n,)."""
    n = len(labels)
    only_a, only_b = (
        int(((a == labels) & (b != labels)).sum()),
        int(((a != labels) & (b == labels)).sum()),
    )
    kinds, counts = np.unique(np.stack([labels, a, b]), axis=1, return_counts=True)

    def difference(cells: np.ndarray) -> float:
        scores = []
        for predicted in kinds[1:]:
            confusion = np.zeros((classes, classes), dtype=np.int64)
            np.add.at(confusion, (kinds[0], predicted), cells)
            scores.append(f1_of_confusion(confusion))
        return scores[1] - scores[0]

    draws = np.array(
        [
            difference(cells)
            for cells in np.random.default_rng(seed).multinomial(n, counts / n, size=DRAWS)
        ]
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    tail = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
    return PairedComparison(
        n, only_a, only_b, mcnemar(only_a, only_b), (only_b - only_a) / n, difference(counts), (float(low), float(high)),
        min(1.0, max(2 * tail, 1 / DRAWS)),
    )  # fmt: skip


def mcnemar(only_a: int, only_b: int) -> float:
    """The exact test: were both models alike, the rows that one alone has right would fall to either like coins."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n if n < 1000 else math.exp(math.log(2 * tail) - n * math.log(2)))
