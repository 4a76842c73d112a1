"""One number per text, or several: squared error, and scores of the differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from distsent.errors import UserError
from distsent.evaluation.intervals import middle, resampled_sums
from distsent.evaluation.tasks.ranking import center, correlation, ranks
from distsent.evaluation.tasks.task import Task


class Regression(Task):
    """Labels float64 [n, K]. Nothing is counted: all scores come from the values."""

    name: ClassVar[str] = "regression"
    scalars: ClassVar[tuple[str, ...]] = ("loss", "mae", "rmse", "r2", "pearson", "spearman")
    main: ClassVar[tuple[str, ...]] = ("rmse", "mae", "r2", "pearson", "spearman")
    followed: ClassVar[tuple[str, ...]] = main
    logged: ClassVar[tuple[str, ...]] = ("rmse", "mae", "pearson", "loss")
    right_score: ClassVar[str | None] = None
    parts: ClassVar[tuple[str, ...]] = ("per_column", "mae", "rmse", "r2", "pearson", "spearman")

    def losses(
        self,
        logits_nC: torch.Tensor,
        labels: torch.Tensor,
        label_smoothing: float = 0.0,
        weights_C: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Squared error, mean over the columns."""
        if label_smoothing or weights_C is not None:
            raise UserError("data.task = 'regression': numbers have no label smoothing or classes")
        return (logits_nC - labels).square().mean(-1)

    def right(self, logits_nC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(labels), dtype=torch.bool, device=labels.device)

    def balanced_weights(self, labels: np.ndarray) -> torch.Tensor:
        raise UserError("train.class_weights: data.task = 'regression' has no classes")

    def no_counts(self) -> np.ndarray:
        return np.zeros(0, dtype=np.int64)

    def count(self, counts: np.ndarray, logits_nC: np.ndarray, labels: np.ndarray) -> None:
        pass

    def scores(
        self, counts: np.ndarray, loss: float, logits_nC: np.ndarray, labels: np.ndarray
    ) -> dict[str, Any]:
        """mae, rmse, r2, pearson, spearman: of each column, and their means over the columns.

        As in scikit-learn and scipy: r2 of a constant column is 1 if it is met exactly, else 0; a
        correlation with a constant is NaN.
        """
        columns = [
            column_scores(np.asarray(y, dtype=np.float64), x.astype(np.float64))
            for y, x in zip(np.asarray(labels).T, logits_nC.T, strict=True)
        ]
        means = {key: float(np.mean([one[key] for one in columns])) for key in columns[0]}
        per_column = dict(zip(self.names, columns, strict=True))
        return {"n": len(labels), "loss": loss, **means, "per_column": per_column}

    def intervals(
        self, scores: Mapping[str, Any], logits_nC: np.ndarray | None, labels: np.ndarray | None
    ) -> dict[str, tuple[float, float]]:
        """Of mae, rmse, r2 and pearson: bootstrap over the rows."""
        if logits_nC is None or labels is None:
            return {}
        draws = averages_of_moments(resampled_sums(moments(logits_nC, labels)), len(self.names))
        return {key: middle(values) for key, values in draws.items()}

    def answers(
        self, logits_nC: np.ndarray, thresholds: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """{"value": 3.2} for each row, or {"values": {"valence": 3.2, "arousal": 1.0}}."""
        if len(self.names) == 1:
            return [{"value": value} for value in logits_nC[:, 0].tolist()]
        return [{"values": dict(zip(self.names, row, strict=True))} for row in logits_nC.tolist()]


def column_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """The scores of one column, float64 [n] each."""
    error = predicted - truth
    squares, spread = float(error @ error), float(np.square(truth - center(truth)).sum())
    undefined = float("nan") if len(truth) < 2 else float(squares == 0)
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(squares / len(truth))),
        "r2": 1 - squares / spread if spread else undefined,
        "pearson": correlation(truth, predicted),
        "spearman": correlation(ranks(truth), ranks(predicted)),
    }


def moments(logits_nK: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Of each row what scores are sums of, float64 [n, 1 + 7 * K]: 1, then 7 for each column."""
    y = np.asarray(labels, dtype=np.float64)
    # Sums of squares of numbers far from 0 would lose their digits.
    mean = center(y)
    x, y = logits_nK - mean, y - mean
    columns = [abs(x - y), np.square(x - y), x, y, x * x, y * y, x * y]
    return np.concatenate([np.ones((len(y), 1)), *columns], axis=1)


def averages_of_moments(sums: np.ndarray, columns: int) -> dict[str, np.ndarray]:
    """mae, rmse, r2 and pearson of sums of `moments` [draws, 1 + 7 * K], mean over the columns."""
    n, parts = sums[:, :1], sums[:, 1:].reshape(len(sums), 7, columns)
    error, squares, x, y, xx, yy, xy = (parts[:, i] for i in range(7))
    spread_x, spread_y, both = xx - x * x / n, yy - y * y / n, xy - x * y / n
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "mae": error / n,
            "rmse": np.sqrt(squares / n),
            "r2": 1 - squares / spread_y,
            "pearson": both / np.sqrt(spread_x * spread_y),
        }
    return {key: values.mean(1) for key, values in found.items()}
