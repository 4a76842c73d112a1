"""Reports of several labels per text: a small matrix per label, and McNemar's test for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from distsent.evaluation.calibration import BINS
from distsent.evaluation.intervals import middle, resampled_sums
from distsent.evaluation.tasks.multi_label import f1_averages, label_counts, sigmoid
from distsent.reporting.markdown import markdown_table
from distsent.reporting.tasks.matrix import draw_matrix
from distsent.reporting.tasks.paired import bootstrap_p, holm, mcnemar
from distsent.reporting.tasks.task_report import MAX_NAMES, TaskReport

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PER_ROW = 6  # matrices in a row of the picture


class MultiLabelReport(TaskReport):
    """`Scores` hold a matrix [2, 2] for each label."""

    picture_name: ClassVar[str] = "confusion"
    picture_title: ClassVar[str] = "a confusion matrix for each label"
    reliability: ClassVar[tuple[str, str]] = ("share with the label", "texts and labels")
    compared: ClassVar[tuple[str, ...]] = (
        "subset accuracy", "right alone", "McNemar p", "F1 micro", "95 % interval", "bootstrap p",
        "F1 macro", "95 % interval", "bootstrap p",
    )  # fmt: skip
    explanation: ClassVar[str] = (
        "Differences on the same rows. Right alone: rows of which only this run, and only the "
        "other, has every label right; McNemar's exact test compares these."
    )
    mistake_columns: ClassVar[tuple[str, ...]] = (
        "labels", "predicted", "worst", "score", "file", "row", "text",
    )  # fmt: skip

    def about_scores(self) -> str:
        return (
            "In brackets: 95 % confidence intervals over the rows (Wilson for subset accuracy, "
            "bootstrap for F1). A label is predicted if its score is above 0.5. Subset accuracy: "
            "the share of rows with every label right. mAP and AUC need no threshold."
        )

    def describe(self) -> str:
        names = self.task.names
        listed = f"{len(names)} labels, any number of them for a text ({', '.join(names)})"
        return f"A text classifier with {listed}"

    def about_confidence(self) -> str:
        return (
            "A label's score says how many such texts have it: this is measured as expected "
            f"calibration error (ECE, {BINS} bins; the mean over the labels)"
        )

    def picture(
        self,
        scores: Mapping[str, Any],
        logits_nC: np.ndarray | None,
        labels: np.ndarray | None,
        title: str,
    ) -> Figure:
        """Of each label: has it, or not (rows); predicted, or not (columns); shade: share."""
        from matplotlib.figure import Figure

        names = self.task.names[:MAX_NAMES]
        columns = min(PER_ROW, len(names))
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(1.9 * columns, 0.5 + 1.9 * rows), layout="constrained")
        more = len(self.task.names) - len(names)
        figure.suptitle(f"{title} (the first {MAX_NAMES} labels)" if more else title)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(names) :]:
            axes.axis("off")
        for axes, name, matrix in zip(grid, names, scores["confusion"], strict=False):
            draw_matrix(axes, np.asarray(matrix), "x-small")
            axes.set_title(name, fontsize="small")
            axes.set_xticks([0, 1], ["no", "yes"], fontsize="x-small")
            axes.set_yticks([0, 1], ["no", "yes"], fontsize="x-small")
        return figure

    def label(self, label: np.ndarray) -> list[str]:
        return [self.task.names[i] for i in np.flatnonzero(label > 0)]

    def mistakes(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The row with the most confident wrong decision about a label first."""
        scores, names, truth = sigmoid(logits_nC), self.task.names, labels > 0
        predicted = logits_nC > 0
        wrong = predicted != truth
        errors = np.where(wrong, np.abs(logits_nC), -1.0)
        worst = errors.argmax(1)
        order = np.argsort(-errors.max(1), kind="stable")
        for i in order[: int(wrong.any(1).sum())]:
            yield (
                int(i),
                {
                    "labels": self.label(truth[i]),
                    "predicted": self.label(predicted[i]),
                    "worst": names[worst[i]],
                    "score": float(scores[i, worst[i]]),
                },
            )

    def precision_recall(
        self, logits_nC: np.ndarray, labels: np.ndarray
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Of each label."""
        scores = sigmoid(logits_nC)
        for i, name in enumerate(self.task.names):
            yield name, labels[:, i] > 0, scores[:, i]

    def compare(self, labels: np.ndarray, a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
        right_a, right_b = ((x > 0) == (labels > 0) for x in (a, b))
        rows = _alone(right_a.all(1), right_b.all(1))
        found = {"n": len(labels), **rows}
        found["subset_accuracy"] = (rows["only_b"] - rows["only_a"]) / len(labels)
        counts = np.concatenate([label_counts(labels > 0, x > 0) for x in (a, b)], axis=1)
        draws = [_f1_differences(sums) for sums in resampled_sums(counts)]
        for key, value in _f1_differences(counts.sum(0)).items():
            drawn = np.array([draw[key] for draw in draws])
            found |= {key: value, f"{key}_interval": middle(drawn), f"{key}_p": bootstrap_p(drawn)}
        per_label = [_alone(x, y) for x, y in zip(right_a.T, right_b.T, strict=True)]
        adjusted = holm(np.array([one["mcnemar"] for one in per_label]))
        found["per_label"] = {
            name: {**one, "holm": float(p)}
            for name, one, p in zip(self.task.names, per_label, adjusted, strict=True)
        }
        return found

    def cells(self, pair: Mapping[str, Any]) -> list[str]:
        cells = [f"{pair['subset_accuracy']:+.4f}", f"{pair['only_b']:,} : {pair['only_a']:,}"]
        cells.append(f"{pair['mcnemar']:.4g}")
        for key in ("f1_micro", "f1_macro"):
            low, high = pair[f"{key}_interval"]
            cells += [f"{pair[key]:+.4f}", f"[{low:+.4f}, {high:+.4f}]", f"{pair[f'{key}_p']:.4g}"]
        return cells

    def details(self, pairs: Mapping[str, Mapping[str, Any]]) -> str:
        """The labels with a p below 0.05."""
        rows = [
            [run, name, f"{one['only_b']:,} : {one['only_a']:,}", f"{one['mcnemar']:.4g}",
             f"{one['holm']:.4g}"]
            for run, pair in pairs.items()
            for name, one in sorted(pair["per_label"].items(), key=lambda x: x[1]["mcnemar"])
            if one["mcnemar"] < 0.05
        ]  # fmt: skip
        if not rows:
            return "No single label differs by more than chance (McNemar's test for each label)."
        head = ["run", "label", "right alone", "McNemar p", "adjusted p"]
        about = "Labels with p below 0.05; the adjusted p allows for the number of labels (Holm)."
        return f"{about}\n\n{markdown_table(head, rows)}"


def _alone(right_a: np.ndarray, right_b: np.ndarray) -> dict[str, Any]:
    """Rows that only one of two models has right, and McNemar's test of these."""
    only_a, only_b = int((right_a & ~right_b).sum()), int((~right_a & right_b).sum())
    return {"only_a": only_a, "only_b": only_b, "mcnemar": mcnemar(only_a, only_b)}


def _f1_differences(sums: np.ndarray) -> dict[str, float]:
    """f1_micro and f1_macro of model b minus those of a; `sums` [6 * L]: `label_counts` of both."""
    one, other = (f1_averages(*part) for part in sums.reshape(2, 3, -1))
    return {key: other[key] - one[key] for key in ("f1_micro", "f1_macro")}
