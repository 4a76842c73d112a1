"""Any number of labels per text: one yes or no for each, by binary cross-entropy.

A label is predicted if its logit is above 0, that is, its score above 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from distsent.evaluation.intervals import middle, resampled_sums, wilson_interval
from distsent.evaluation.tasks.ranking import average_precision, roc_auc
from distsent.evaluation.tasks.single_label import scores_per_class
from distsent.evaluation.tasks.task import Task


class MultiLabel(Task):
    """Labels uint8 [n, L]. Counts [L, 2, 2]: rows by (has the label, is predicted to have it)."""

    name: ClassVar[str] = "multi_label"
    scalars: ClassVar[tuple[str, ...]] = (
        "loss", "f1_micro", "f1_macro", "f1_weighted", "f1_samples", "subset_accuracy", "map",
        "auc_macro",
    )  # fmt: skip
    main: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro", "map", "subset_accuracy")
    followed: ClassVar[tuple[str, ...]] = main
    logged: ClassVar[tuple[str, ...]] = ("f1_micro", "f1_macro", "map", "loss")
    right_score: ClassVar[str | None] = "subset_accuracy"
    parts: ClassVar[tuple[str, ...]] = (
        "per_label", "precision", "recall", "f1", "average_precision", "auc",
    )  # fmt: skip

    def losses(
        self,
        logits_nC: torch.Tensor,
        labels: torch.Tensor,
        label_smoothing: float = 0.0,
        weights_C: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Mean over the labels. `weights_C`: a factor for the rows that have the label.

        Smoothing moves the truth of each label toward 1/2.
        """
        if label_smoothing:
            labels = labels * (1 - label_smoothing) + label_smoothing / 2
        losses_nL = F.binary_cross_entropy_with_logits(
            logits_nC, labels, pos_weight=weights_C, reduction="none"
        )
        return losses_nL.mean(-1)

    def right(self, logits_nC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((logits_nC > 0) == (labels > 0)).all(-1)

    def balanced_weights(self, labels: np.ndarray) -> torch.Tensor:
        """Rows with a label get, in total, the weight of those without it."""
        positive = torch.from_numpy(labels.sum(0, dtype=np.int64)).double()
        weights_L = (len(labels) - positive) / positive.clamp(min=1)
        # Of a label that no row or every row has, there is nothing to balance.
        return torch.where((positive > 0) & (positive < len(labels)), weights_L, 1.0)

    def no_counts(self) -> np.ndarray:
        return np.zeros((len(self.names), 2, 2), dtype=np.int64)

    def count(self, counts: np.ndarray, logits_nC: np.ndarray, labels: np.ndarray) -> None:
        predicted, truth = logits_nC > 0, np.asarray(labels) > 0
        for i, has in enumerate((~truth, truth)):
            for j, says in enumerate((~predicted, predicted)):
                counts[:, i, j] += (has & says).sum(0)

    def scores(
        self, counts: np.ndarray, loss: float, logits_nC: np.ndarray, labels: np.ndarray
    ) -> dict[str, Any]:
        """Scores as in scikit-learn, 0 where undefined (zero_division=0), confusion, and per label.

        `auc_macro` is the mean over the labels that have rows with and rows without them.
        """
        right, support, found = counts[:, 1, 1], counts[:, 1].sum(-1), counts[:, :, 1].sum(-1)
        truth, predicted = np.asarray(labels) > 0, logits_nC > 0
        per_label = scores_per_class(right, support, found)
        f1_samples = scores_per_class((truth & predicted).sum(1), truth.sum(1), predicted.sum(1))
        per_label["average_precision"] = average_precision(logits_nC, truth)
        per_label["auc"] = roc_auc(logits_nC, truth)
        defined = per_label["auc"][~np.isnan(per_label["auc"])]
        return {
            "n": len(truth),
            "loss": loss,
            **f1_averages(right, support, found),
            "f1_samples": float(f1_samples["f1"].mean()),
            "subset_accuracy": float((truth == predicted).all(1).mean()),
            "map": float(per_label["average_precision"].mean()),
            "auc_macro": float(defined.mean()) if len(defined) else float("nan"),
            "confusion": counts.tolist(),
            "per_label": {
                name: {"n": int(support[i]), **{k: float(v[i]) for k, v in per_label.items()}}
                for i, name in enumerate(self.names)
            },
        }

    def intervals(
        self, scores: Mapping[str, Any], logits_nC: np.ndarray | None, labels: np.ndarray | None
    ) -> dict[str, tuple[float, float]]:
        """Of subset_accuracy (Wilson), f1_micro and f1_macro (bootstrap over the rows)."""
        right = round(scores["subset_accuracy"] * scores["n"])
        found = {"subset_accuracy": wilson_interval(right, scores["n"])}
        if logits_nC is not None and labels is not None:
            draws = [f1_averages(*one) for one in resampled_label_counts(logits_nC, labels)]
            for key in ("f1_micro", "f1_macro"):
                found[key] = middle(np.array([draw[key] for draw in draws]))
        return found

    def answers(self, logits_nC: np.ndarray) -> list[dict[str, Any]]:
        """{"labels": ["joy"], "scores": {"joy": 0.9, "fear": 0.1}} for each row."""
        return [
            {
                "labels": [self.names[i] for i in np.flatnonzero(logits > 0)],
                "scores": dict(zip(self.names, scores.tolist(), strict=True)),
            }
            for logits, scores in zip(logits_nC, sigmoid(logits_nC), strict=True)
        ]


def sigmoid(logits_nL: np.ndarray) -> np.ndarray:
    """The score of each label [n, L]."""
    return torch.from_numpy(logits_nL).sigmoid().numpy()


def f1_averages(right: np.ndarray, support: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """f1_micro, f1_macro, f1_weighted. Per label [L]: rows found rightly, with it, found."""
    f1 = scores_per_class(right, support, found)["f1"]
    both, positive = (support + found).sum(), support.sum()
    return {
        "f1_micro": float(2 * right.sum() / both) if both else 0.0,
        "f1_macro": float(f1.mean()),
        "f1_weighted": float((f1 * support).sum() / positive) if positive else 0.0,
    }


def label_counts(logits_nL: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each row: is each label found rightly, has it, is it found; float64 [n, 3 * L]."""
    truth, predicted = np.asarray(labels) > 0, logits_nL > 0
    return np.concatenate([truth & predicted, truth, predicted], axis=1).astype(np.float64)


def resampled_label_counts(logits_nL: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The sums of `label_counts` in each draw of the bootstrap, [DRAWS, 3, L]."""
    sums = resampled_sums(label_counts(logits_nL, labels))
    return sums.reshape(len(sums), 3, -1)
