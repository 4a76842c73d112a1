"""Temperatures for a classifier's logits, so that scores say how often labels are right.

Guo et al., "On Calibration of Modern Neural Networks" (2017): one for a softmax. Of several labels
per text, each has its own. Dividing by a temperature changes no label.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from distsent.evaluation.intervals import resampled_sums

LOWEST, HIGHEST = 0.01, 100.0  # if none between them is best, the scores stay as they are
STEPS, CLOSE = 100, 1e-13  # Newton's method converges in about ten steps
CHUNK = 1 << 16  # rows in float64 at once
BINS = 15  # of equal width, each with its upper edge, as in the paper
AT_ONCE = 1 << 25  # numbers that the interval takes into memory at once
SHOWN = 3  # labels that a line gives a reason for


@dataclass(frozen=True)
class Temperature:
    """A temperature, and why none fits best. None: there are no scores to fit."""

    value: float | None
    reason: str | None = None


def fit_temperature(
    logits_nC: np.ndarray, labels_n: np.ndarray, weights_n: np.ndarray | None = None
) -> Temperature:
    """The temperature with the lowest negative log-likelihood, in float64.

    `weights_n`: what each row counts. The loss is convex in the inverse temperature: a zero of its
    slope is the only minimum.
    """
    n = len(labels_n)
    if bad := int((~np.isfinite(logits_nC).all(axis=1)).sum()):
        return Temperature(None, f"{bad:,} of {n:,} rows have no score")
    weights_n = np.ones(n) if weights_n is None else weights_n
    slope_at = partial(_slope, logits_nC, labels_n, weights_n)
    low, high = 1 / HIGHEST, 1 / LOWEST
    if slope_at(low)[0] >= 0:
        return Temperature(1.0, f"the scores of {n:,} rows say nothing of their labels")
    if slope_at(high)[0] <= 0:
        right = int((logits_nC.argmax(1) == labels_n).sum())
        why = f"{right:,} of {n:,} rows are right, and still higher scores would always fit better"
        return Temperature(1.0, why)
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


def fit_label_temperature(logits_n: np.ndarray, has_n: np.ndarray) -> Temperature:
    """The temperature of one label of several: its score is the sigmoid of its logit.

    `has_n`: which rows have the label. It stays 1 where none or all of them have it.
    """
    n, positive = len(has_n), int(has_n.sum())
    if positive in (0, n) and np.isfinite(logits_n).all():
        return Temperature(1.0, f"{'all' if positive else 'none'} of {n:,} rows have it")
    # The sigmoid of a logit is the softmax over 0 and the logit.
    logits_n2 = np.stack([np.zeros_like(logits_n), logits_n], axis=1)
    return fit_temperature(logits_n2, has_n.astype(np.int64))


def describe_fits(fitted: Mapping[str, Temperature]) -> list[str]:
    """A line about those that do not fit. The names are those of labels; empty for a softmax."""
    for one in fitted.values():
        if one.value is None:
            return [f"calibration: none, as {one.reason}"]
    reasons = {name: one.reason for name, one in fitted.items() if one.reason}
    if not reasons:
        return []
    unchanged = "calibration: temperature 1, no change"
    if "" in reasons:
        return [f"{unchanged}: {reasons['']}"]
    shown = [f"{name} ({reason})" for name, reason in [*reasons.items()][:SHOWN]]
    more = len(reasons) - len(shown)
    shown += [f"{more:,} more"] if more else []
    return [f"{unchanged}, for {len(reasons):,} of {len(fitted):,} labels: {', '.join(shown)}"]


@dataclass(frozen=True)
class Reliability:
    """Decisions by their score: in each bin their number, the true ones, the sum of scores."""

    rows: np.ndarray
    right: np.ndarray
    scores: np.ndarray

    @classmethod
    def of(cls, scores_n: np.ndarray, right_n: np.ndarray) -> "Reliability":
        where = bins_of(scores_n)
        sums = (np.bincount(where, w, BINS) for w in (None, right_n, scores_n))
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


def bins_of(scores: np.ndarray) -> np.ndarray:
    """The bin of each score."""
    return np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], scores, side="left")


def expected_error(scores_nK: np.ndarray, true_nK: np.ndarray) -> float:
    """The mean over K decisions of their expected calibration errors.

    Of one it is that of Guo et al., of several labels the classwise one of Kull et al., "Beyond
    Temperature Scaling" (2019).
    """
    pairs = zip(scores_nK.T, true_nK.T, strict=True)
    return float(np.mean([Reliability.of(*pair).error for pair in pairs]))


def error_interval(scores_nK: np.ndarray, true_nK: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of `expected_error`, over the rows.

    Resampling adds noise, which the error counts as miscalibration: the draws are shifted by what
    they are too large on average.
    """
    n, decisions = scores_nK.shape
    errors, together = 0.0, max(1, AT_ONCE // (n * BINS))
    for start in range(0, decisions, together):
        some = slice(start, start + together)
        bins = bins_of(scores_nK[:, some])[..., None]
        gaps = true_nK[:, some, None] - scores_nK[:, some, None].astype(np.float64)
        parts = np.zeros((*bins.shape[:2], BINS))
        np.put_along_axis(parts, bins, gaps, axis=2)
        errors = errors + np.abs(resampled_sums(parts.reshape(n, -1))).sum(1)
    errors = errors / (n * decisions)
    shifted = errors - np.mean(errors) + expected_error(scores_nK, true_nK)
    low, high = np.quantile(shifted, [0.025, 0.975])
    return max(0.0, float(low)), min(1.0, float(high))
