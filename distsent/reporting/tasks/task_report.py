"""What reports show of a task beside its scores: pictures, mistakes, comparisons of two models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from distsent.evaluation.tasks.task import Task

MAX_NAMES = 60  # along an axis: more are illegible, and a thousand take a minute to draw


@dataclass(frozen=True)
class TaskReport(ABC):
    """Logits are float32 [n, C]; labels are those of the task."""

    task: Task

    picture_name: ClassVar[str]  # begins the names of picture files and TensorBoard's tags
    picture_title: ClassVar[str]
    reliability: ClassVar[tuple[str, str]] = ("", "")  # what is true of what, in its diagram
    compared: ClassVar[tuple[str, ...]]  # columns of a comparison after the two names
    explanation: ClassVar[str]  # of these columns
    mistake_columns: ClassVar[tuple[str, ...]]  # keys of a mistake that a table shows

    @abstractmethod
    def describe(self) -> str:
        """What the model is, for its card."""

    @abstractmethod
    def about_scores(self) -> str:
        """What the scores of its card are."""

    @abstractmethod
    def about_confidence(self) -> str:
        """What the calibration errors of its card are, if there are any."""

    @abstractmethod
    def picture(
        self,
        scores: Mapping[str, Any],
        logits_nC: np.ndarray | None,
        labels: np.ndarray | None,
        title: str,
    ) -> Figure:
        """A split's predictions as a picture."""

    @abstractmethod
    def label(self, label: Any) -> Any:
        """A row's label as JSON: a name, a list of names, a number, or numbers by column."""

    @abstractmethod
    def mistakes(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row, what is wrong about it) of rows that are predicted wrong, the worst first."""

    @abstractmethod
    def precision_recall(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """(name, truth bool [n], scores [n]) of each curve of precision over recall."""

    @abstractmethod
    def compare(self, labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        """How the logits b differ from the logits a of the same rows: differences are b minus a."""

    @abstractmethod
    def cells(self, pair: Mapping[str, Any]) -> list[str]:
        """A comparison as one cell for each of `compared`."""

    def details(self, pairs: Mapping[str, Mapping[str, Any]]) -> str:
        """More about comparisons, by the names of the runs; empty if there is no more."""
        return ""
