"""One temperature for a classifier's logits, so that scores say how often labels are right.

Guo et al., "On Calibration of Modern Neural Networks" (2017). Dividing by it changes no label.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from distsent.evaluation.intervals import resampled_counts
from distsent.evaluation.tasks.single_label import softmax

LOWEST, HIGHEST = 0.01, 100.0  # if none between them is best, the scores stay as they are
UNCHANGED = "temperature 1, no change"
STEPS, CLOSE = 100, 1e-13  # Newton's method converges in about ten steps
CHUNK = 1 << 16  # rows in float64 at once
BINS = 15  # of equal width, each with its upper edge, as in the paper
FINE = 20  # parts of a bin, for the interval


@dataclass(frozen=True)
class Temperature:
    """A temperature, and a line if none fits best. None: there are no scores to fit."""

    value: float | None
    note: str | None = None


def fit_temperature(
    logits_nC: np.ndarray, labels_n: np.ndarray, weights_n: np.ndarray | None = None
) -> Temperature:
    """The temperature with the lowest negative log-likelihood, in float64.

    `weights_n`: what each row counts. The loss is convex in the inverse temperature: a zero of its
    slope is the only minimum.
    """
    n = len(labels_n)
    if bad := int((~np.isfinite(logits_nC).all(axis=1)).sum()):
        return Temperature(None, f"none, as {bad:,} of {n:,} rows have no score")
    weights_n = np.ones(n) if weights_n is None else weights_n
    slope_at = partial(_slope, logits_nC, labels_n, weights_n)
    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope_at(low)[0] >= 0:
        return Temperature(
            1.0, f"{UNCHANGED}: the scores of {n:,} rows say nothing of their labels"
        )
    if slope_at(high)[0] <= 0:
        right = int((logits_nC.argmax(1) == labels_n).sum())
        why = f"{right:,} of {n:,} rows are right, and still higher scores would always fit better"
        return Temperature(1.0, f"{UNCHANGED}: {why}")
    inverse = 1.0
    for _ in range(STEPS):
        slope, curvature = slope_at(inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        new = inverse - slope / curvature if curvature > 0 else 0.0
        if not low < new < high:
            new = (low * high) ** 0.5
        if abs(new - inverse) <= CLOSE * inverse:
            break
        inverse = new
    return Temperature(1 / inverse)


def _slope(
    logits_nC: np.ndarray, labels_n: np.ndarray, weights_n: np.ndarray, inverse: float
) -> tuple[float, float]:
    """First and second derivative of the mean loss by the inverse temperature."""
    first = second = 0.0
    for start in range(0, len(labels_n), CHUNK):
        rows = slice(start, start + CHUNK)
        z = logits_nC[rows].astype(np.float64)
        z -= z.max(axis=1, keepdims=True)
        truth = np.take_along_axis(z, labels_n[rows, None], axis=1)[:, 0]
        p = np.exp(inverse * z)
        p /= p.sum(axis=1, keepdims=True)
        mean = (p * z).sum(axis=1)
        first += float((weights_n[rows] * (mean - truth)).sum())
        second += float((weights_n[rows, None] * p * (z - mean[:, None]) ** 2).sum())
    return first / len(labels_n), second / len(labels_n)


def top_scores(
    logits_nC: np.ndarray, labels_n: np.ndarray, temperature: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """(score of the predicted class, whether that is the label) [n], as `predict` computes them."""
    scores = softmax(logits_nC / np.float32(temperature))
    return scores.max(axis=1), logits_nC.argmax(axis=1) == labels_n


@dataclass(frozen=True)
class Reliability:
    """Rows by their score: number of rows, right ones, and sum of scores in each bin."""

    rows: np.ndarray
    right: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, scores_n: np.ndarray, right_n: np.ndarray, bins: int = BINS) -> "Reliability":
        inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
        where = np.searchsorted(inner_edges, scores_n, side="left")
        sums = (np.bincount(where, w, bins) for w in (None, right_n, scores_n))
        return cls(*(np.asarray(one, dtype=np.float64) for one in sums))

    @property
    def error(self) -> float:
        """The expected calibration error: mean distance of score and accuracy over the bins."""
        return float(np.abs(self.right - self.scores).sum() / self.rows.sum())

    def bars(self) -> Iterator[tuple[int, float, float, float]]:
        """(bin, accuracy, mean score, share of the rows) of each bin that has rows."""
        for i in np.flatnonzero(self.rows):
            n = self.rows[i]
            yield int(i), self.right[i] / n, self.scores[i] / n, n / self.rows.sum()


def error_interval(scores_n: np.ndarray, right_n: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the expected calibration error.

    Resampling adds noise, which the error counts as miscalibration: the draws are shifted by what
    they are too large on average.
    """
    # Rows whose scores lie in the same small part of a bin count as equal: few kinds to draw.
    parts = [Reliability.of(scores_n[x], right_n[x], BINS * FINE) for x in (right_n, ~right_n)]
    rows, scores = (np.concatenate([getattr(p, k) for p in parts]) for k in ("rows", "scores"))
    kinds = np.flatnonzero(rows)
    bins, right = (kinds % (BINS * FINE)) // FINE, kinds < BINS * FINE
    gaps = right - scores[kinds] / rows[kinds]
    counts = rows[kinds].astype(np.int64)
    errors = np.array([
        np.abs(np.bincount(bins, drawn * gaps, BINS)).sum() / len(scores_n)
        for drawn in resampled_counts(counts)
    ])  # fmt: skip
    estimate = np.abs(np.bincount(bins, counts * gaps, BINS)).sum() / len(scores_n)
    low, high = np.quantile(errors - errors.mean() + estimate, [0.025, 0.975])
    return max(0.0, float(low)), min(1.0, float(high))
