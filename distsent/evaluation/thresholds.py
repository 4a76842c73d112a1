"""From which score on to give a label: curves of thresholds, measured on validation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from distsent.evaluation.intervals import wilson_interval

TARGETS = (0.8, 0.9, 0.95, 0.99)  # precisions that a finished run is measured for
# Points of a curve: evenly spaced over the rows, and denser among the highest scores.
EVEN, DENSE = 256, 64
HALF = 0.5  # where a label is given without thresholds
DIGITS = 6  # of shares and intervals in the file


@dataclass(frozen=True)
class Curve:
    """For each threshold, lowest first: rows with at least this score, and right ones of them.

    precision: of the answered rows, those that are right. coverage: of all `n` rows, those that are
    answered. recall: of `positive` rows, those that are answered and right. These are all rows
    where a text has one label, and the rows with the label where it is one of several.
    """

    n: int
    positive: int
    threshold: np.ndarray
    answered: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, scores_n: np.ndarray, right_n: np.ndarray) -> Curve:
        """The curve of top scores and whether they are right [n], n >= 1."""
        scores, right, ends = _by_score(scores_n, right_n)
        return cls._at(scores, right, ends[_spaced(len(ends))], len(scores))

    @classmethod
    def of_label(cls, scores_n: np.ndarray, has_n: np.ndarray) -> Curve:
        """The curve of a label's scores and which rows have it [n]; empty if none has.

        A threshold that finds no more rows with the label than a higher one is left out.
        """
        scores, right, ends = _by_score(scores_n, has_n)
        ends = ends[np.diff(right[ends], prepend=0) > 0]
        positive = int(right[-1])
        kept = np.zeros(0, dtype=int)
        if len(ends):
            best = _f1(right[ends], ends + 1, positive).argmax()  # of equal ones the surest
            kept = np.union1d(_spaced(len(ends)), best)
        return cls._at(scores, right, ends[kept], positive)

    @classmethod
    def _at(cls, scores: np.ndarray, right: np.ndarray, kept: np.ndarray, positive: int) -> Curve:
        """The curve of some of the rows from the highest score down."""
        kept = kept[::-1]
        # Halfway to the next score: another batch, which rounds differently, gives the same labels.
        below = np.append(scores, 0.0)[kept + 1]
        threshold = np.where(kept == len(scores) - 1, 0.0, (scores[kept] + below) / 2)
        return cls(len(scores), positive, threshold, kept + 1, right[kept])

    @cached_property
    def precision(self) -> np.ndarray:
        return self.right / self.answered

    @cached_property
    def recall(self) -> np.ndarray:
        return self.right / self.positive

    @cached_property
    def coverage(self) -> np.ndarray:
        return self.answered / self.n

    def best_f1(self) -> int | None:
        """The point with the best F1; of equal ones, the highest. None of an empty curve."""
        f1 = _f1(self.right, self.answered, self.positive)
        return int(np.flatnonzero(f1 == f1.max())[-1]) if len(f1) else None

    def lowest(self, min_precision: float, min_recall: float = 0.0) -> int | None:
        """The point that answers most rows of those that reach both. None if none does."""
        good = np.flatnonzero((self.precision >= min_precision) & (self.recall >= min_recall))
        return int(good[0]) if len(good) else None

    def highest(self, min_recall: float) -> int | None:
        """The point that answers fewest rows of those that reach the recall."""
        good = np.flatnonzero(self.recall >= min_recall)
        return int(good[-1]) if len(good) else None

    def describe(self, i: int) -> str:
        """What the rows say about a threshold."""
        low, high = wilson_interval(int(self.right[i]), int(self.answered[i]))
        precision = f"precision {self.precision[i]:.4f} [{low:.4f}, {high:.4f}]"
        return f"{precision}, recall {self.recall[i]:.4f}, coverage {self.coverage[i]:.4f}"

    def to_dict(self) -> dict[str, Any]:
        """One list per column, with 95 % intervals (Wilson)."""
        answered, right = self.answered.tolist(), self.right.tolist()
        columns: dict[str, Any] = {"positive": self.positive}
        columns["threshold"] = self.threshold.tolist()
        columns |= {"answered": answered, "right": right}
        ratios = {
            "precision": list(zip(right, answered, strict=True)),
            "recall": [(part, self.positive) for part in right],
            "coverage": [(part, self.n) for part in answered],
        }
        for name, pairs in ratios.items():
            columns[name] = [round(a / b, DIGITS) for a, b in pairs]
            intervals = [wilson_interval(a, b) for a, b in pairs]
            columns[f"{name}_interval"] = [[round(x, DIGITS) for x in one] for one in intervals]
        return {"rows": self.n, **columns}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Curve:
        """The inverse of `to_dict`. Raises ValueError, KeyError or TypeError for anything else."""
        columns = [np.asarray(tree[key]) for key in ("threshold", "answered", "right")]
        curve = cls(int(tree["rows"]), int(tree["positive"]), *columns)
        if len({len(column) for column in columns}) > 1:
            raise ValueError("columns of different lengths")
        if bool(curve.positive) != bool(len(curve.threshold)):
            raise ValueError("a curve without points")
        if not (curve.right >= 0).all() or not (curve.right <= curve.answered).all():
            raise ValueError("more right rows than answered ones")
        return curve


def _by_score(
    scores_n: np.ndarray, true_n: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores from the highest down, the true ones up to each, and where equal scores end."""
    order = np.argsort(-scores_n, kind="stable")
    scores, right = scores_n[order].astype(np.float64), np.cumsum(true_n[order])
    return scores, right, np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)


def _spaced(n: int) -> np.ndarray:
    """Which of n points a curve keeps."""
    spaced = np.linspace(0, n - 1, EVEN), np.geomspace(1, n, DENSE) - 1
    return np.unique(np.rint(np.concatenate(spaced)).astype(int))


def _f1(right: np.ndarray, answered: np.ndarray, positive: int) -> np.ndarray:
    return 2 * right / (answered + positive)


@dataclass(frozen=True)
class Target:
    """What a threshold shall reach on validation: a precision, a recall, or else the best F1."""

    min_precision: float | None = None
    min_recall: float | None = None

    def __str__(self) -> str:
        pairs = {"--min-precision": self.min_precision, "--min-recall": self.min_recall}
        return " and ".join(f"{name} {x:g}" for name, x in pairs.items() if x is not None)

    def point(self, curve: Curve) -> int | None:
        """Where a curve reaches it; None if it does not.

        With a precision, the point that answers most rows; with a recall alone, the fewest.
        """
        if self.min_precision is not None:
            return curve.lowest(self.min_precision, self.min_recall or 0.0)
        if self.min_recall is not None:
            return curve.highest(self.min_recall)
        return curve.best_f1()

    def nearest(self, curve: Curve) -> int:
        """The point that comes closest, where none reaches it."""
        if self.min_precision is None:
            return int(curve.recall.argmax())
        reached = curve.lowest(self.min_precision)
        return int(curve.precision.argmax()) if reached is None else reached

    def threshold(self, curve: Curve) -> float:
        """That of the point. Where there is none, infinity; 0.5 if no row tells a best F1."""
        point = self.point(curve)
        if point is not None:
            return float(curve.threshold[point])
        return math.inf if str(self) else HALF


def measure(scores_n: np.ndarray, right_n: np.ndarray, threshold: float) -> dict[str, Any]:
    """Coverage and precision [n] at a threshold, with intervals; precision None if none answers."""
    answers = scores_n.astype(np.float64) >= threshold
    n, answered, right = len(answers), int(answers.sum()), int((answers & right_n).sum())
    return {
        "coverage": answered / n,
        "coverage_interval": wilson_interval(answered, n),
        "precision": right / answered if answered else None,
        "precision_interval": wilson_interval(right, answered) if answered else None,
    }
