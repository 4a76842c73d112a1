"""Scores from counts that merge exactly: ratios are taken once, of the merged counts."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np


def softmax(logits_nC: np.ndarray) -> np.ndarray:
    """Class probabilities [n, C] of logits [n, C]."""
    exp = np.exp(logits_nC - logits_nC.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


class Counts:
    """Confusion matrix [C, C] (true class, predicted class) and sum of losses of some rows."""

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self.loss_sum = 0.0

    def add(self, labels: np.ndarray, predicted: np.ndarray, losses: np.ndarray) -> None:
        """Add rows: true and predicted classes [n], losses [n]."""
        np.add.at(self.confusion, (labels, predicted), 1)
        self.loss_sum += float(losses.astype(np.float64).sum())

    def to_vector(self) -> np.ndarray:
        """float64 [C * C + 1]. Adding vectors merges counts: integers stay exact up to 2**53."""
        return np.append(self.confusion.ravel().astype(np.float64), self.loss_sum)

    @classmethod
    def from_vector(cls, vector: np.ndarray, classes: int) -> Self:
        """The counts of `to_vector`, or of a sum of such vectors."""
        counts = cls(classes)
        counts.confusion[:] = np.rint(vector[:-1]).astype(np.int64).reshape(classes, classes)
        counts.loss_sum = float(vector[-1])
        return counts

    def scores(self, names: Sequence[str]) -> dict[str, Any]:
        """n, loss, accuracy, precision, recall, f1, f1_macro, confusion, and scores per class.

        Precision, recall and F1 are those of the second class for two classes, else weighted by
        support; 0 where undefined, as in scikit-learn with zero_division=0.
        """
        support = self.confusion.sum(1)
        n, correct = int(support.sum()), np.diag(self.confusion)
        averages, per_class = average_scores(correct, support, self.confusion.sum(0))
        return {
            "n": n,
            "loss": self.loss_sum / n,
            "accuracy": float(correct.sum() / n),
            **averages,
            "confusion": self.confusion.tolist(),
            "per_class": {
                name: {"n": int(support[i]), **{k: float(v[i]) for k, v in per_class.items()}}
                for i, name in enumerate(names)
            },
        }


def average_scores(
    correct: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Precision, recall, f1 and f1_macro; and the first three of each class [C].

    Per class [C]: rows predicted correctly, rows of the class, rows predicted as the class.
    """
    per_class = {
        "precision": _divide(correct, predicted),
        "recall": _divide(correct, support),
        "f1": _divide(2 * correct, support + predicted),
    }
    # A class that neither occurs nor is predicted has no F1 to average.
    present = (support + predicted) > 0
    averages = {
        key: values[1] if len(support) == 2 else (values * support).sum() / support.sum()
        for key, values in per_class.items()
    }
    averages["f1_macro"] = per_class["f1"][present].mean()
    return {key: float(value) for key, value in averages.items()}, per_class


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)
