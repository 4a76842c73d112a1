"""Reports of one class per text: a confusion matrix, confident mistakes, McNemar's test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distsent.evaluation.calibration import BINS
from distsent.evaluation.intervals import middle, resampled_counts
from distsent.evaluation.tasks.single_label import scores_of_counts, softmax
from distsent.reporting.tasks.matrix import draw_matrix
from distsent.reporting.tasks.paired import bootstrap_p, mcnemar
from distsent.reporting.tasks.task_report import MAX_NAMES, TaskReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class PairedComparison:
    """Model b against model a.

    `only_a`, `only_b`: rows that only this model has right; `mcnemar`: exact, two-sided p.
    `accuracy`, `f1`: b minus a; `f1_interval`: 95 %, of the difference in F1; `f1_p`: two-sided,
    bootstrap.
    """

    n: int
    only_a: int
    only_b: int
    mcnemar: float
    accuracy: float
    f1: float
    f1_interval: tuple[float, float]
    f1_p: float


class SingleLabelReport(TaskReport):
    """`Scores` hold the confusion matrix [C, C]."""

    picture_name: ClassVar[str] = "confusion"
    picture_title: ClassVar[str] = "confusion matrix"
    reliability: ClassVar[tuple[str, str]] = ("accuracy", "rows")
    compared: ClassVar[tuple[str, ...]] = (
        "accuracy", "right alone", "McNemar p", "F1", "95 % interval", "bootstrap p",
    )  # fmt: skip
    explanation: ClassVar[str] = (
        "Differences on the same rows. Right alone: rows that only this run, and only the other, "
        "has right; McNemar's exact test compares these."
    )
    mistake_columns: ClassVar[tuple[str, ...]] = (
        "label", "predicted", "score", "file", "row", "text",
    )  # fmt: skip

    def about_scores(self) -> str:
        two = len(self.task.names) == 2
        averaged = f"of `{self.task.names[1]}`" if two else "weighted by support"
        return (
            "In brackets: 95 % confidence intervals over the rows (Wilson for accuracy, bootstrap "
            f"for F1). Precision, recall and F1 are {averaged}."
        )

    def describe(self) -> str:
        names = self.task.names
        return f"A text classifier with {len(names)} classes ({', '.join(names)})"

    def about_confidence(self) -> str:
        return (
            "A score says how often the label is right: this is measured as expected calibration "
            f"error (ECE, {BINS} bins)"
        )

    def picture(
        self,
        scores: Mapping[str, Any],
        logits_nC: np.ndarray | None,
        labels: np.ndarray | None,
        title: str,
    ) -> Figure:
        """Rows: true classes; columns: predicted classes; shade: share of the true class."""
        from matplotlib.figure import Figure

        cells, names = np.asarray(scores["confusion"]), self.task.names
        side = min(16.0, 2.5 + 0.8 * len(names))
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        draw_matrix(axes, cells, "small", numbers=len(names) <= 20)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        named = range(0, len(names), -(-len(names) // MAX_NAMES))
        shown = [names[i] for i in named]
        axes.set_xticks(named, shown, rotation=45, ha="right")
        axes.set_yticks(named, shown)
        return figure

    def label(self, label: int) -> str:
        return self.task.names[label]

    def mistakes(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The most confident first: they show wrong labels and blind spots."""
        scores, names = softmax(logits_nC), self.task.names
        predicted = scores.argmax(1)
        wrong = np.flatnonzero(predicted != labels)
        for i in wrong[np.argsort(-scores[wrong, predicted[wrong]], kind="stable")]:
            yield (
                int(i),
                {
                    "label": names[labels[i]],
                    "predicted": names[predicted[i]],
                    "score": float(scores[i, predicted[i]]),
                    "score_of_label": float(scores[i, labels[i]]),
                },
            )

    def precision_recall(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Of the second class for two classes, else of each class against the others."""
        scores, names = softmax(logits_nC), self.task.names
        for i in [1] if len(names) == 2 else range(len(names)):
            yield names[i], labels == i, scores[:, i]

    def compare(self, labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        predicted = a.argmax(axis=1), b.argmax(axis=1)
        return asdict(compare_predictions(labels, *predicted, len(self.task.names)))

    def cells(self, pair: Mapping[str, Any]) -> list[str]:
        low, high = pair["f1_interval"]
        return [
            f"{pair['accuracy']:+.4f}", f"{pair['only_b']:,} : {pair['only_a']:,}",
            f"{pair['mcnemar']:.4g}", f"{pair['f1']:+.4f}", f"[{low:+.4f}, {high:+.4f}]",
            f"{pair['f1_p']:.4g}",
        ]  # fmt: skip


def compare_predictions(
    labels: np.ndarray, a: np.ndarray, b: np.ndarray, classes: int
) -> PairedComparison:
    """`labels`, `a`, `b`: true classes and the predictions of the two models, int (n,)."""
    n = len(labels)
    only_a = int(((a == labels) & (b != labels)).sum())
    only_b = int(((a != labels) & (b == labels)).sum())
    # Resampling rows is resampling counts of (true class, prediction of a, prediction of b).
    kinds, counts = np.unique(np.stack([labels, a, b]), axis=1, return_counts=True)

    def f1_difference(cells: np.ndarray) -> float:
        one, other = (scores_of_counts(kinds[0], x, cells, classes)["f1"] for x in kinds[1:])
        return other - one

    draws = np.array([f1_difference(cells) for cells in resampled_counts(counts)])
    p, accuracy = mcnemar(only_a, only_b), (only_b - only_a) / n
    f1 = f1_difference(counts), middle(draws), bootstrap_p(draws)
    return PairedComparison(n, only_a, only_b, p, accuracy, *f1)
