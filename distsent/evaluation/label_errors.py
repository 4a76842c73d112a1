"""Likely label errors, from logits of rows that the model was not trained on.

Confident learning (Northcutt et al., 2021), on calibrated scores: a row is suspect if a class other
than its label has at least its usual score, which is its mean over the rows with this label.

The temperature is fitted as if a share of the labels were drawn at random. Without that, many wrong
labels would make all scores so low that no row is suspect.
"""

from dataclasses import dataclass

import numpy as np

from distsent.errors import UserError
from distsent.evaluation.calibration import fit_temperature
from distsent.evaluation.tasks.single_label import softmax

# The suggested class's share of its and the label's score, at least: 13 times as likely. Models
# are wrong on more rows than labels are; most of these are doubtful for the model itself.
LEAST = 0.93
ROUNDS, SAMPLE = 20, 50_000


@dataclass(frozen=True)
class LabelErrors:
    """Rows with the class suggested for each and a score from LEAST to 1, the likeliest first."""

    rows: np.ndarray
    suggested: np.ndarray
    scores: np.ndarray


def find_label_errors(logits_nC: np.ndarray, labels_n: np.ndarray) -> LabelErrors:
    """The rows whose label is likely to be wrong. Raises UserError for logits that are no numbers.

    Logits [n, C] of rows that were held out of the training, labels [n].
    """
    if not np.isfinite(logits_nC).all():
        raise UserError("the logits of some rows are not finite: train again with a lower optim.lr")
    temperature = temperature_despite_errors(logits_nC, labels_n)
    scores = softmax(logits_nC.astype(np.float64) / temperature)
    n, classes = scores.shape
    own = scores[np.arange(n), labels_n]
    rows_of = np.bincount(labels_n, minlength=classes)
    usual = np.full(classes, np.inf)  # a class without rows is never suggested
    np.divide(np.bincount(labels_n, own, classes), rows_of, out=usual, where=rows_of > 0)
    confident = np.where(scores >= usual, scores, -1.0)
    confident[np.arange(n), labels_n] = -1.0
    suggested = confident.argmax(axis=1)
    best = confident.max(axis=1)
    share = np.zeros(n)
    np.divide(best, best + own, out=share, where=best > 0)
    rows = np.flatnonzero(share >= LEAST)
    rows = rows[np.argsort(-share[rows], kind="stable")]
    return LabelErrors(rows, suggested[rows], share[rows])


def temperature_despite_errors(logits_nC: np.ndarray, labels_n: np.ndarray) -> float:
    """The temperature of scores whose labels are drawn at random in a share of the rows.

    Both are fitted together, by expectation maximization, on at most SAMPLE rows.
    """
    some = slice(None, None, -(-len(labels_n) // SAMPLE))
    logits_nC, labels_n = logits_nC[some].astype(np.float64), labels_n[some].astype(np.int64)
    n, classes = logits_nC.shape
    at_random, weights, temperature = 0.05, np.ones(n), 1.0
    for _ in range(ROUNDS):
        scores = softmax(logits_nC / temperature)[np.arange(n), labels_n]
        by_model = (1 - at_random) * scores
        weights = by_model / (by_model + at_random / classes)
        at_random = float(1 - weights.mean())
        temperature = fit_temperature(logits_nC, labels_n, weights).value or 1.0
    return temperature
