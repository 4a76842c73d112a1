"""Reports of numbers: predicted against true values, large errors, bootstrap of their means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distsent.evaluation.intervals import middle, resampled_sums
from distsent.evaluation.tasks.regression import averages_of_moments, moments
from distsent.reporting.tasks.paired import bootstrap_p
from distsent.reporting.tasks.task_report import TaskReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 5000  # of a picture
COMPARED = ("mae", "rmse")


class RegressionReport(TaskReport):
    """All is drawn and compared from the predicted values."""

    picture_name: ClassVar[str] = "values"
    picture_title: ClassVar[str] = "predicted against true values"
    compared: ClassVar[tuple[str, ...]] = (
        "MAE", "95 % interval", "bootstrap p", "RMSE", "95 % interval", "bootstrap p",
    )  # fmt: skip
    explanation: ClassVar[str] = "Differences on the same rows; below 0, this run is better."
    mistake_columns: ClassVar[tuple[str, ...]] = (
        "value", "predicted", "error", "file", "row", "text",
    )  # fmt: skip

    def about_scores(self) -> str:
        return (
            "In brackets: 95 % confidence intervals over the rows (bootstrap). The loss is the "
            "mean squared error."
        )

    def describe(self) -> str:
        names = self.task.names
        what = "a number" if len(names) == 1 else f"{len(names)} numbers"
        return f"A model that predicts {what} for a text ({', '.join(names)})"

    def about_confidence(self) -> str:
        return "Not measured: a number comes without a score"

    def picture(
        self,
        scores: Mapping[str, Any],
        logits_nC: np.ndarray | None,
        labels: np.ndarray | None,
        title: str,
    ) -> Figure:
        """Of each column: a point per row, and the line where both values are equal."""
        from matplotlib.figure import Figure

        names = self.task.names[:12]
        figure = Figure(figsize=(1 + 4 * min(4, len(names)), 0.5 + 4 * -(-len(names) // 4)),
                        layout="constrained")  # fmt: skip
        figure.suptitle(title)
        grid = figure.subplots(-(-len(names) // 4), min(4, len(names)), squeeze=False).ravel()
        for axes in grid[len(names) :]:
            axes.axis("off")
        for axes, name, i in zip(grid, names, range(len(names)), strict=False):
            axes.set(title=name, xlabel="true", ylabel="predicted")
            axes.grid(alpha=0.3)
            if logits_nC is None or labels is None:
                continue
            rows = np.random.default_rng(0).permutation(len(labels))[:MAX_POINTS]
            true, predicted = labels[rows, i], logits_nC[rows, i]
            axes.plot(true, predicted, ".", alpha=0.3, markersize=4)
            ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
            axes.plot(ends, ends, color="black", linewidth=1)
        return figure

    def label(self, label: np.ndarray) -> float | dict[str, float]:
        values = [float(x) for x in label]
        return values[0] if len(values) == 1 else dict(zip(self.task.names, values, strict=True))

    def mistakes(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The largest error first: root of the mean square over the columns."""
        errors = np.sqrt(np.square(logits_nC.astype(np.float64) - labels).mean(1))
        for i in np.argsort(-errors, kind="stable"):
            yield (
                int(i),
                {
                    "value": self.label(labels[i]),
                    "predicted": self.label(logits_nC[i]),
                    "error": float(errors[i]),
                },
            )

    def precision_recall(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """None."""
        return iter(())

    def compare(self, labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        sums = [moments(x, labels) for x in (a, b)]
        both = np.concatenate(sums, axis=1)
        found: dict[str, Any] = {"n": len(labels)}
        differences, draws = self._differences(both.sum(0)[None]), resampled_sums(both)
        for key, drawn in self._differences(draws).items():
            found |= {key: float(differences[key][0]), f"{key}_interval": middle(drawn)}
            found[f"{key}_p"] = bootstrap_p(drawn)
        return found

    def _differences(self, sums: np.ndarray) -> dict[str, np.ndarray]:
        """mae and rmse of model b minus those of a. `sums` [draws, 2 * k]: `moments` of both."""
        parts = np.split(sums, 2, axis=1)
        one, other = (averages_of_moments(part, len(self.task.names)) for part in parts)
        return {key: other[key] - one[key] for key in COMPARED}

    def cells(self, pair: Mapping[str, Any]) -> list[str]:
        cells = []
        for key in COMPARED:
            low, high = pair[f"{key}_interval"]
            cells += [f"{pair[key]:+.4f}", f"[{low:+.4f}, {high:+.4f}]", f"{pair[f'{key}_p']:.4g}"]
        return cells
