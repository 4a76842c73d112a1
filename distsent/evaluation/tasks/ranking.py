"""How well numbers rank rows: exact, with ties, for each column of a matrix."""

import numpy as np


def average_precision(scores_nL: np.ndarray, truth_nL: np.ndarray) -> np.ndarray:
    """Average precision of each label [L]: the sum over thresholds of (recall gained) x precision.

    0 for a label that no row has. Rows of equal scores share a threshold.
    """
    found = np.zeros(truth_nL.shape[1])
    for i, (scores, truth) in enumerate(zip(scores_nL.T, truth_nL.T, strict=True)):
        positive = int(truth.sum())
        if positive:
            order = np.argsort(-scores, kind="stable")
            last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of ties
            right = np.cumsum(truth[order])[last]
            found[i] = np.sum(np.diff(right, prepend=0) / positive * (right / (last + 1)))
    return found


def roc_auc(scores_nL: np.ndarray, truth_nL: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of each label [L], by ranks (Mann and Whitney, 1947).

    NaN for a label that no row or every row has.
    """
    found = np.full(truth_nL.shape[1], np.nan)
    for i, (scores, truth) in enumerate(zip(scores_nL.T, truth_nL.T, strict=True)):
        positive = int(truth.sum())
        negative = len(truth) - positive
        if positive and negative:
            above = ranks(scores)[truth].sum() - positive * (positive + 1) / 2
            found[i] = above / (positive * negative)
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, float64 [n]; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + 1 + ends) / 2)[inverse]


def center(values: np.ndarray) -> np.ndarray:
    """The mean of each column, [...] of [n, ...]; of a constant exactly that, which no mean is.

    Three times 0.1 have the mean 0.10000000000000002.
    """
    return np.where((values == values[0]).all(0), values[0], values.mean(0))


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's r of two columns; NaN if one of them is constant, or has less than two rows."""
    x, y = x - center(x), y - center(y)
    scale = np.linalg.norm(x) * np.linalg.norm(y)
    return float(np.clip(x @ y / scale, -1, 1)) if scale else float("nan")
