"""Scores as counts that merge exactly: every row adds one to the confusion matrix, ratios are taken once, at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def softmax(logits_nC: np.ndarray) -> np.ndarray:
    """Class probabilities [n, C] of logits [n, C]."""
    exp = np.exp(logits_nC - logits_nC.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


class Counts:
    """Confusion matrix [C, C] (true class, predicted class) and the sum of losses, over any part of a split."""

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self.loss_sum = 0.0

    def add(self, labels: np.ndarray, predicted: np.ndarray, losses: np.ndarray) -> None:
        """Count rows: true and predicted classes [n], losses [n]."""
        np.add.at(self.confusion, (labels, predicted), 1)
        self.loss_sum += float(losses.astype(np.float64).sum())

    def to_vector(self) -> np.ndarray:
        """float64 [C * C + 1]: adding vectors merges counts (whole numbers stay exact to 2**53)."""
        return np.append(self.confusion.ravel().astype(np.float64), self.loss_sum)

    @classmethod
    def from_vector(cls, vector: np.ndarray, classes: int) -> Counts:
        counts = cls(classes)
        counts.confusion[:] = np.rint(vector[:-1]).astype(np.int64).reshape(classes, classes)
        counts.loss_sum = float(vector[-1])
        return counts

    def scores(self, names: Sequence[str]) -> dict[str, Any]:
        """n, loss, accuracy, precision, recall, f1, f1_macro, confusion, and precision/recall/f1/n per class.

        Precision, recall and F1 are of the second class for two classes, else weighted by support; 0 where undefined,
        as scikit-learn with zero_division=0.
        """
        right = np.diag(self.confusion).astype(np.float64)
        support, predicted = self.confusion.sum(1), self.confusion.sum(0)
        n = int(support.sum())
        precision, recall = _ratio(right, predicted), _ratio(right, support)
        f1 = _ratio(2 * right, support + predicted)
        present = (
            support + predicted
        ) > 0  # a class that neither occurs nor is predicted has no F1 to average
        whole = (
            {"precision": precision[1], "recall": recall[1], "f1": f1[1]}
            if len(names) == 2
            else {
                k: (v * support).sum() / n
                for k, v in {"precision": precision, "recall": recall, "f1": f1}.items()
            }
        )
        return {
            "n": n,
            "loss": self.loss_sum / n,
            "accuracy": float(right.sum() / n),
            **{key: float(value) for key, value in whole.items()},
            "f1_macro": float(f1[present].mean()),
            "confusion": self.confusion.tolist(),
            "per_class": {
                name: {
                    "n": int(support[i]),
                    "precision": float(precision[i]),
                    "recall": float(recall[i]),
                    "f1": float(f1[i]),
                }
                for i, name in enumerate(names)
            },
        }


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)
