"""Any number of labels per text: one yes or no for each, by binary cross-entropy.

A label is predicted if its logit is above 0, that is, its score above 0.5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from distsent.data.labels.targets import count_classes
from distsent.evaluation.calibration import Temperature, fit_label_temperature
from distsent.evaluation.intervals import middle, resampled_sums, wilson_interval
from distsent.evaluation.tasks.ranking import average_precision, roc_auc
from distsent.evaluation.tasks.single_label import scores_per_class
from distsent.evaluation.tasks.task import Task
from distsent.evaluation.thresholds import TARGETS, Curve, Target


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

    confidence_keys: ClassVar[tuple[str, ...]] = ("thresholds",)

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
        positive = torch.from_numpy(count_classes(labels, len(self.names))).double()
        weights_L = (len(labels) - positive) / positive.clamp(min=1)
        # Of a label that no row or every row has, there is nothing to balance.
        return torch.where((positive > 0) & (positive < len(labels)), weights_L, 1.0)

    def no_counts(self) -> np.ndarray:
        return np.zeros((len(self.names), 2, 2), dtype=np.int64)

    def count(self, counts: np.ndarray, logits_nC: np.ndarray, labels: np.ndarray) -> None:
        counts += count_decisions(np.asarray(labels) > 0, logits_nC > 0)

    def scores(
        self, counts: np.ndarray, loss: float, logits_nC: np.ndarray, labels: np.ndarray
    ) -> dict[str, Any]:
        """Scores as in scikit-learn, 0 where undefined (zero_division=0), confusion, and per label.

        `auc_macro` is the mean over the labels that have rows with and rows without them.
        """
        truth = np.asarray(labels) > 0
        averages, per_label = decision_scores(counts, truth, logits_nC > 0)
        per_label["average_precision"] = average_precision(logits_nC, truth)
        per_label["auc"] = roc_auc(logits_nC, truth)
        defined = per_label["auc"][~np.isnan(per_label["auc"])]
        return {
            "n": len(truth),
            "loss": loss,
            **averages,
            "map": float(per_label["average_precision"].mean()),
            "auc_macro": float(defined.mean()) if len(defined) else float("nan"),
            "confusion": counts.tolist(),
            "per_label": self._by_name(counts, per_label),
        }

    def _by_name(
        self, counts: np.ndarray, per_label: Mapping[str, np.ndarray]
    ) -> dict[str, dict[str, float]]:
        return {
            name: {
                "n": int(counts[i, 1].sum()),
                **{key: float(values[i]) for key, values in per_label.items()},
            }
            for i, name in enumerate(self.names)
        }

    def intervals(
        self, scores: Mapping[str, Any], logits_nC: np.ndarray | None, labels: np.ndarray | None
    ) -> dict[str, tuple[float, float]]:
        """Of subset_accuracy (Wilson), f1_micro and f1_macro (bootstrap over the rows)."""
        right = round(scores["subset_accuracy"] * scores["n"])
        found = {"subset_accuracy": wilson_interval(right, scores["n"])}
        if logits_nC is not None and labels is not None:
            decided = np.asarray(labels) > 0, logits_nC > 0
            draws = [f1_averages(*one) for one in resampled_decisions(*decided)]
            for key in ("f1_micro", "f1_macro"):
                found[key] = middle(np.array([draw[key] for draw in draws]))
        return found

    def remark(self, scores: Mapping[str, Any]) -> str | None:
        if np.asarray(scores["confusion"])[:, :, 1].any():
            return None
        return "no text gets a label: all scores are below 0.5, so F1 is 0; mAP needs no threshold"

    @property
    def decisions(self) -> tuple[str, ...]:
        """One for each label: whether the text has it."""
        return self.names

    def temperatures(self, logits_nC: np.ndarray, labels: np.ndarray) -> list[Temperature]:
        pairs = zip(logits_nC.T, np.asarray(labels).T > 0, strict=True)
        return [fit_label_temperature(*pair) for pair in pairs]

    def confidences(
        self, logits_nC: np.ndarray, labels: np.ndarray, temperature: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The score of each label, and whether the row has it."""
        return sigmoid(logits_nC / temperature.astype(np.float32)), np.asarray(labels) > 0

    def curve(self, scores_n: np.ndarray, true_n: np.ndarray) -> Curve:
        return Curve.of_label(scores_n, true_n)

    def measured(
        self, curves: Mapping[str, Curve], scores_nK: np.ndarray, true_nK: np.ndarray
    ) -> dict[str, Any]:
        """`thresholds`: the scores with the thresholds of best F1; `decisions`: of TARGETS."""
        at = [Target().threshold(curve) for curve in curves.values()]
        predicted = scores_nK >= at
        counts = count_decisions(true_nK, predicted)
        averages, per_label = decision_scores(counts, true_nK, predicted)
        pairs = zip(at, self._by_name(counts, per_label).items(), strict=True)
        found = {name: {"threshold": x, **scores} for x, (name, scores) in pairs}
        draws = [f1_averages(*one) for one in resampled_decisions(true_nK, predicted)]
        for key in ("f1_micro", "f1_macro"):
            averages[f"{key}_interval"] = middle(np.array([draw[key] for draw in draws]))
        targets = [self._target(x, curves, scores_nK, true_nK) for x in TARGETS]
        thresholds = {"rule": "best F1", **averages, "per_label": found}
        return {"thresholds": thresholds, "decisions": {"targets": targets}}

    def _target(
        self,
        precision: float,
        curves: Mapping[str, Curve],
        scores_nL: np.ndarray,
        truth_nL: np.ndarray,
    ) -> dict[str, Any]:
        """What the thresholds for a precision do; a label that does not reach it is never given."""
        at = [Target(min_precision=precision).threshold(curve) for curve in curves.values()]
        reached, predicted = np.isfinite(at), scores_nL >= at
        n, covered = len(predicted), int(predicted.any(1).sum())
        given, right = int(predicted.sum()), int((predicted & truth_nL).sum())
        has = int(truth_nL.sum())
        return {
            "min_precision": precision,
            "labels": int(reached.sum()),
            "never": [name for name, there in zip(self.names, reached, strict=True) if not there],
            "coverage": covered / n,
            "coverage_interval": wilson_interval(covered, n),
            "precision": right / given if given else None,
            "precision_interval": wilson_interval(right, given) if given else None,
            "recall": right / has if has else None,
        }

    def summary(self, result: Mapping[str, Any]) -> list[str]:
        found = result["thresholds"]
        if found is None:
            return []
        shown = ", ".join(f"{key} {found[key]:.4f}" for key in ("f1_micro", "f1_macro"))
        what = f"a threshold for each label, of the best F1 on validation: {shown}"
        return [f"thresholds: {what} on {found['split']}"]

    def answers(
        self, logits_nC: np.ndarray, thresholds: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """{"labels": ["joy"], "scores": {"joy": 0.9, "fear": 0.1}} for each row."""
        scores_nL = sigmoid(logits_nC)
        given = logits_nC > 0 if thresholds is None else scores_nL >= thresholds
        return [
            {
                "labels": [self.names[i] for i in np.flatnonzero(has)],
                "scores": dict(zip(self.names, scores.tolist(), strict=True)),
            }
            for has, scores in zip(given, scores_nL, strict=True)
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


def count_decisions(truth_nL: np.ndarray, predicted_nL: np.ndarray) -> np.ndarray:
    """Rows by (has the label, is predicted to have it), int64 [L, 2, 2]."""
    counts = [
        [(has & says).sum(0) for says in (~predicted_nL, predicted_nL)]
        for has in (~truth_nL, truth_nL)
    ]
    return np.moveaxis(np.array(counts, dtype=np.int64), -1, 0)


def decision_scores(
    counts: np.ndarray, truth_nL: np.ndarray, predicted_nL: np.ndarray
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The scores that depend on what is predicted alone, and precision, recall, f1 per label [L].

    `counts` [L, 2, 2]: of the whole split, as the rows are.
    """
    right, support, found = counts[:, 1, 1], counts[:, 1].sum(-1), counts[:, :, 1].sum(-1)
    both = truth_nL & predicted_nL
    f1_samples = scores_per_class(both.sum(1), truth_nL.sum(1), predicted_nL.sum(1))["f1"]
    averages = {
        **f1_averages(right, support, found),
        "f1_samples": float(f1_samples.mean()),
        "subset_accuracy": float((truth_nL == predicted_nL).all(1).mean()),
    }
    return averages, scores_per_class(right, support, found)


def label_counts(truth_nL: np.ndarray, predicted_nL: np.ndarray) -> np.ndarray:
    """Of each row: is each label found rightly, has it, is it found; float64 [n, 3 * L]."""
    columns = [truth_nL & predicted_nL, truth_nL, predicted_nL]
    return np.concatenate(columns, axis=1).astype(np.float64)


def resampled_decisions(truth_nL: np.ndarray, predicted_nL: np.ndarray) -> np.ndarray:
    """The sums of `label_counts` in each draw of the bootstrap, [DRAWS, 3, L]."""
    sums = resampled_sums(label_counts(truth_nL, predicted_nL))
    return sums.reshape(len(sums), 3, -1)
