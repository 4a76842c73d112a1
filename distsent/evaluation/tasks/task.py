"""What a task decides: the loss, the predictions, the scores. One object for each `data.task`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from distsent.evaluation.calibration import Temperature
from distsent.evaluation.thresholds import Curve


@dataclass(frozen=True)
class Task(ABC):
    """`names`: of the classes, labels or columns, in the order of the logits.

    Labels of n rows are int64 [n], uint8 [n, C] or float64 [n, C], by task; batches hold the two
    latter as float32.
    """

    names: tuple[str, ...]

    name: ClassVar[str]  # data.task
    scalars: ClassVar[tuple[str, ...]]  # the scores that are one number
    main: ClassVar[tuple[str, ...]]  # those that runs are compared by, the most usual one first
    followed: ClassVar[tuple[str, ...]]  # those of each evaluation in a table
    logged: ClassVar[tuple[str, ...]]  # those of each evaluation in a line of the log
    right_score: ClassVar[str | None]  # the share of rows that are predicted right
    parts: ClassVar[tuple[str, ...]]  # the key of the scores of each name, and those scores
    confidence_keys: ClassVar[tuple[str, ...]] = ()  # of `measured`, beside `decisions`

    @property
    def ordered(self) -> tuple[str, ...]:
        """`scalars`, those of `main` first, the loss last."""
        rest = (key for key in self.scalars if key not in (*self.main, "loss"))
        return (*self.main, *rest, "loss")

    @abstractmethod
    def losses(
        self,
        logits_nC: torch.Tensor,
        labels: torch.Tensor,
        label_smoothing: float = 0.0,
        weights_C: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of each row, float32 [n]."""

    @abstractmethod
    def right(self, logits_nC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Which rows are predicted right, bool [n]; none if there is no such thing."""

    @abstractmethod
    def balanced_weights(self, labels: np.ndarray) -> torch.Tensor:
        """`train.class_weights = "balanced"`, float64 [C], for these labels of the training."""

    @abstractmethod
    def no_counts(self) -> np.ndarray:
        """The counts of no rows, int64. Counts of parts of a split add up to those of the split."""

    @abstractmethod
    def count(self, counts: np.ndarray, logits_nC: np.ndarray, labels: np.ndarray) -> None:
        """Add rows to `counts`."""

    @abstractmethod
    def scores(
        self, counts: np.ndarray, loss: float, logits_nC: np.ndarray, labels: np.ndarray
    ) -> dict[str, Any]:
        """The scores of a split: of its counts, its mean loss, and the logits of its rows."""

    @abstractmethod
    def intervals(
        self, scores: Mapping[str, Any], logits_nC: np.ndarray | None, labels: np.ndarray | None
    ) -> dict[str, tuple[float, float]]:
        """95 % confidence intervals of some scores; fewer or none without the logits."""

    def remark(self, scores: Mapping[str, Any]) -> str | None:
        """What the log says about scores that look like a mistake."""
        return None

    @property
    def decisions(self) -> tuple[str, ...]:
        """The names of what is decided about a text, each with a temperature and a threshold.

        A single name "" for one label per text; none where nothing is decided.
        """
        return ()

    def temperatures(self, logits_nC: np.ndarray, labels: np.ndarray) -> list[Temperature]:
        """The best temperature [K] of each decision for these rows."""
        return []

    def confidences(
        self, logits_nC: np.ndarray, labels: np.ndarray, temperature: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32, whether that is true) [n, K]: scores say how often it is, if calibrated.

        `temperature` [K]. The scores are those of `answers`.
        """
        raise NotImplementedError

    def curve(self, scores_n: np.ndarray, true_n: np.ndarray) -> Curve:
        """The thresholds for a decision."""
        raise NotImplementedError

    def measured(
        self, curves: Mapping[str, Curve], scores_nK: np.ndarray, true_nK: np.ndarray
    ) -> dict[str, Any]:
        """What thresholds from curves do on other rows: `decisions` in result.json, and more."""
        raise NotImplementedError

    def summary(self, result: Mapping[str, Any]) -> list[str]:
        """Lines of the log about what was `measured`."""
        return []

    @abstractmethod
    def answers(
        self, logits_nC: np.ndarray, thresholds: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """What `predict` says about each row. `thresholds` [K]: the least score of a label."""
