"""Whether two models differ by more than chance: tests on the same rows, paired row by row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distsent.evaluation.intervals import DRAWS, resampled_counts
from distsent.evaluation.tasks.single_label import scores_of_counts
from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun

HEAD = (
    "run", "against", "accuracy", "right alone", "McNemar p", "F1", "95 % interval", "bootstrap p",
)  # fmt: skip
EXPLANATION = (
    "Differences on the same rows. Right alone: rows that only this run, and only the other, has "
    "right; McNemar's exact test compares these. Below 0.05, chance is an unlikely explanation; "
    "among many runs, expect one in twenty below 0.05 by chance."
)


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
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int
) -> PairedComparison:
    """`labels`, `a`, `b`: true classes and the predictions of the two models, int (n,)."""
    n = len(labels)
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((a != labels) & (b == labels)).sum())
    # Resampling rows is resampling counts of (true class, prediction of a, prediction of b).
    kinds, counts = np.unique(np.stack([labels, a, b]), axis=1, return_counts=True)

    def f1_difference(cells: np.ndarray) -> float:
        one, other = (scores_of_counts(kinds[0], x, cells, classes)["f1"] for x in kinds[1:])
        return other - one

    draws = np.array([f1_difference(cells) for cells in resampled_counts(counts)])
    low, high = map(float, np.quantile(draws, [0.025, 0.975]))
    tail = min(float((draws <= 0).mean()), float((draws >= 0).mean()))
    p, accuracy = mcnemar(only_a, only_b), (only_b - only_a) / n
    f1, f1_p = f1_difference(counts), min(1.0, max(2 * tail, 1 / DRAWS))
    return PairedComparison(n, only_a, only_b, p, accuracy, f1, (low, high), f1_p)


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact test: if the models were equal, only_a would be Binomial(n, 1/2)."""
    n, fewer = only_a + only_b, min(only_a, only_b)
    k = np.arange(fewer)
    logs = np.append(0.0, np.cumsum(np.log(n - k) - np.log(k + 1)))  # of binomial coefficients
    return min(1.0, 2 * float(np.exp(logs - n * math.log(2)).sum()))


def compare_runs(first: FinishedRun, other: FinishedRun, split: str) -> dict[str, Any]:
    """The comparison as plain values; `untested` gives the reason if there is none."""
    names = {"run": other.name, "against": first.name}
    a, b = first.predictions(split), other.predictions(split)
    if a is None or b is None:
        missing = other if b is None else first
        return names | {"untested": f"{missing.name} has no predictions of its {split} split"}
    if first.labels != other.labels:
        return names | {"untested": "their classes differ"}
    if not (np.array_equal(a.labels, b.labels) and np.array_equal(a.rows, b.rows)):
        return names | {"untested": f"their {split} splits hold different rows"}
    texts = {run.result.get("texts", {}).get(split) for run in (first, other)}
    if len(texts - {None}) > 1:  # runs of older versions have no hash of their texts
        return names | {"untested": f"their {split} splits hold different texts"}
    return names | asdict(compare_predictions(a.labels, a.classes, b.classes, len(first.labels)))


def format_pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons as a markdown table with an explanation; empty without any."""
    rows = []
    for pair in pairs:
        row = [pair["run"], pair["against"]]
        if "untested" in pair:
            row += [f"untested: {pair['untested']}", *[""] * (len(HEAD) - 3)]
        else:
            low, high = pair["f1_interval"]
            row += [f"{pair['accuracy']:+.4f}", f"{pair['only_b']:,} : {pair['only_a']:,}"]
            row += [f"{pair['mcnemar']:.4g}", f"{pair['f1']:+.4f}"]
            row += [f"[{low:+.4f}, {high:+.4f}]", f"{pair['f1_p']:.4g}"]
        rows.append(row)
    return f"\n{markdown_table(HEAD, rows)}\n{EXPLANATION}\n" if rows else ""
