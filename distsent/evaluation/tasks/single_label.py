"""One of several classes: cross-entropy, and scores from a confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from distsent.data.labels.targets import count_classes
from distsent.evaluation.calibration import Temperature, fit_temperature
from distsent.evaluation.intervals import resampled_counts, wilson_interval
from distsent.evaluation.tasks.task import Task
from distsent.evaluation.thresholds import TARGETS, Curve, measure


class SingleLabel(Task):
    """Labels int64 [n]. Counts are the confusion matrix [C, C] (true class, predicted class)."""

    name: ClassVar[str] = "single_label"
    scalars: ClassVar[tuple[str, ...]] = (
        "loss", "accuracy", "precision", "recall", "f1", "f1_macro",
    )  # fmt: skip
    main: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "f1_macro")
    followed: ClassVar[tuple[str, ...]] = ("accuracy", "f1", "precision", "recall")
    logged: ClassVar[tuple[str, ...]] = ("accuracy", "loss", "f1")
    right_score: ClassVar[str | None] = "accuracy"
    parts: ClassVar[tuple[str, ...]] = ("per_class", "precision", "recall", "f1")

    def losses(
        self,
        logits_nC: torch.Tensor,
        labels: torch.Tensor,
        label_smoothing: float = 0.0,
        weights_C: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross-entropy. `weights_C`: a factor for the rows of each class."""
        losses_n = F.cross_entropy(
            logits_nC, labels, reduction="none", label_smoothing=label_smoothing
        )
        return losses_n if weights_C is None else losses_n * weights_C[labels]

    def right(self, logits_nC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits_nC.argmax(-1) == labels

    def balanced_weights(self, labels: np.ndarray) -> torch.Tensor:
        """All classes get the same total weight, and rows a mean weight of 1."""
        counts = torch.from_numpy(count_classes(labels, len(self.names))).double()
        return counts.sum() / (len(self.names) * counts.clamp(min=1))

    def no_counts(self) -> np.ndarray:
        return np.zeros((len(self.names), len(self.names)), dtype=np.int64)

    def count(self, counts: np.ndarray, logits_nC: np.ndarray, labels: np.ndarray) -> None:
        np.add.at(counts, (labels, logits_nC.argmax(-1)), 1)

    def scores(
        self, counts: np.ndarray, loss: float, logits_nC: np.ndarray, labels: np.ndarray
    ) -> dict[str, Any]:
        """n, loss, accuracy, precision, recall, f1, f1_macro, confusion, and scores per class.

        Precision, recall and F1 are those of the second class for two classes, else weighted by
        support; 0 where undefined, as in scikit-learn with zero_division=0.
        """
        support = counts.sum(1)
        n, correct = int(support.sum()), np.diag(counts)
        averages, per_class = average_scores(correct, support, counts.sum(0))
        return {
            "n": n,
            "loss": loss,
            "accuracy": float(correct.sum() / n),
            **averages,
            "confusion": counts.tolist(),
            "per_class": {
                name: {"n": int(support[i]), **{k: float(v[i]) for k, v in per_class.items()}}
                for i, name in enumerate(self.names)
            },
        }

    def intervals(
        self,
        scores: Mapping[str, Any],
        logits_nC: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ) -> dict[str, tuple[float, float]]:
        """Of accuracy (Wilson), f1 and f1_macro (bootstrap). The confusion matrix is enough."""
        return score_intervals(scores["confusion"])

    @property
    def decisions(self) -> tuple[str, ...]:
        """One: whether the predicted class is right."""
        return ("",)

    def temperatures(self, logits_nC: np.ndarray, labels: np.ndarray) -> list[Temperature]:
        return [fit_temperature(logits_nC, labels)]

    def confidences(
        self, logits_nC: np.ndarray, labels: np.ndarray, temperature: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The score of the predicted class, and whether it is the label."""
        scores = softmax(logits_nC / temperature.astype(np.float32))
        return scores.max(axis=1)[:, None], (logits_nC.argmax(axis=1) == labels)[:, None]

    def curve(self, scores_n: np.ndarray, true_n: np.ndarray) -> Curve:
        return Curve.of(scores_n, true_n)

    def measured(
        self, curves: Mapping[str, Curve], scores_nK: np.ndarray, true_nK: np.ndarray
    ) -> dict[str, Any]:
        """Of the threshold for each of TARGETS, the coverage and the precision."""
        found = scores_nK[:, 0], true_nK[:, 0]
        return {"decisions": {"targets": [_abstaining(curves[""], x, *found) for x in TARGETS]}}

    def answers(
        self, logits_nC: np.ndarray, thresholds: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """{"label": "pos", "score": 0.98, "scores": {"neg": 0.02, "pos": 0.98}} for each row.

        The label is None below the threshold.
        """
        least = 0.0 if thresholds is None else float(thresholds[0])
        return [
            {
                "label": self.names[int(row.argmax())] if float(row.max()) >= least else None,
                "score": float(row.max()),
                "scores": dict(zip(self.names, row.tolist(), strict=True)),
            }
            for row in softmax(logits_nC)
        ]


def _abstaining(
    curve: Curve, target: float, scores_n: np.ndarray, right_n: np.ndarray
) -> dict[str, Any]:
    """What the threshold for a precision does on other rows; None where none reaches it."""
    point = curve.lowest(target)
    if point is None:
        best = float(curve.precision.max())
        return {"min_precision": target, "threshold": None, "best_precision": best}
    threshold = float(curve.threshold[point])
    measured = measure(scores_n, right_n, threshold)
    return {"min_precision": target, "threshold": threshold, **measured}


def softmax(logits_nC: np.ndarray) -> np.ndarray:
    """Class probabilities [n, C] of logits [n, C]."""
    exp = np.exp(logits_nC - logits_nC.max(axis=1, keepdims=True))
    return exp / exp.sum(axis=1, keepdims=True)


def average_scores(
    correct: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Precision, recall, f1 and f1_macro; and the first three of each class [C].

    Per class [C]: rows predicted correctly, rows of the class, rows predicted as the class.
    """
    per_class = scores_per_class(correct, support, predicted)
    # A class that neither occurs nor is predicted has no F1 to average.
    present = (support + predicted) > 0
    averages = {
        key: values[1] if len(support) == 2 else (values * support).sum() / support.sum()
        for key, values in per_class.items()
    }
    averages["f1_macro"] = per_class["f1"][present].mean()
    return {key: float(value) for key, value in averages.items()}, per_class


def scores_per_class(
    correct: np.ndarray, support: np.ndarray, predicted: np.ndarray
) -> dict[str, np.ndarray]:
    """Precision, recall and f1 of each class [C], 0 where undefined. Arguments as above."""
    return {
        "precision": _divide(correct, predicted),
        "recall": _divide(correct, support),
        "f1": _divide(2 * correct, support + predicted),
    }


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.zeros(len(a)), where=b > 0)


def scores_of_counts(
    labels: np.ndarray, predicted: np.ndarray, counts: np.ndarray, classes: int
) -> dict[str, float]:
    """`average_scores` of rows given as counts [k] of kinds: true and predicted classes [k]."""
    correct = counts * (labels == predicted)
    pairs = ((labels, correct), (labels, counts), (predicted, counts))
    return average_scores(*(np.bincount(i, n, classes) for i, n in pairs))[0]


def score_intervals(confusion: Sequence[Sequence[int]]) -> dict[str, tuple[float, float]]:
    """The intervals of accuracy (Wilson), f1 and f1_macro (bootstrap)."""
    cells = np.asarray(confusion, dtype=np.int64)
    # A thousand classes have a million cells, most of them 0. The last one takes the rest of a
    # draw: it stays, so that the draws are those of the whole matrix.
    kinds = np.flatnonzero(cells)
    kinds = np.union1d(kinds, cells.size - 1)
    labels, predicted = np.unravel_index(kinds, cells.shape)
    draws = [
        scores_of_counts(labels, predicted, counts, len(cells))
        for counts in resampled_counts(cells.ravel()[kinds])
    ]
    intervals = {"accuracy": wilson_interval(int(np.trace(cells)), int(cells.sum()))}
    for key in ("f1", "f1_macro"):
        low, high = np.quantile([draw[key] for draw in draws], [0.025, 0.975])
        intervals[key] = float(low), float(high)
    return intervals
