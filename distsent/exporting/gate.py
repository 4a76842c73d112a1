"""Whether an export may be called one: it must label the rows as the run's model does.

Compared with distsent's own scores in float32, on the same rows:

agreement   single_label: the same label; multi_label: the same decision, for each label alone;
            regression: a difference of at most a tenth of the spread. At least 99 % of the rows.
accuracy    single_label: accuracy; multi_label: F1 micro; regression: RMSE / spread. At most 0.5
            points worse.
logits      float32: equal, within rounding; int8: not scaled, which no label would show.

The spread is the standard deviation of the training labels of a column.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from distsent.evaluation.intervals import (
    middle,
    paired_interval,
    resampled_sums,
    wilson_interval,
)
from distsent.evaluation.tasks.multi_label import f1_averages, label_counts
from distsent.evaluation.tasks.task import Task

AGREEMENT = 0.99
LOSS = 0.005  # of accuracy
NEAR = 0.1  # of the spread: regression's agreement
SAME = 1e-3  # of the largest logit: float32's difference
SCALE = 0.8, 1.25  # of int8's logits
WIDE = 0.02  # an interval of agreement that says little about 99 %
ROUNDING = 1e-12


@dataclass(frozen=True)
class Rows:
    """Logits [n, C] of the run's model and of its export, and the labels of n rows.

    `spread` [C]: of the training labels; used by regression only.
    """

    task: Task
    reference: np.ndarray
    exported: np.ndarray
    labels: np.ndarray
    spread: np.ndarray

    def agree(self) -> np.ndarray:
        """Whether each decision is the same, bool [n, K]."""
        a, b = self.reference, self.exported
        same = {
            "single_label": lambda: (a.argmax(1) == b.argmax(1))[:, None],
            "multi_label": lambda: (a > 0) == (b > 0),
            "regression": lambda: np.abs(a - b) <= NEAR * self.spread,
        }[self.task.name]()
        return same & np.isfinite(b).all(1)[:, None]

    def distance(self) -> np.ndarray:
        """How far the logits are apart, [n]; infinite where they are not numbers."""
        far = np.abs(self.reference - self.exported).max(1)
        return np.where(np.isfinite(far), far, np.inf)

    def scale(self) -> float:
        """By what the export multiplies the logits, by least squares; 1 if all of them are 0."""
        a, b = self.reference.astype(np.float64), self.exported.astype(np.float64)
        if self.task.name == "single_label":  # a constant in all logits changes no score
            a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        squares = float((a * a).sum())
        return float((a * b).sum()) / squares if squares else 1.0


def accuracy(rows: Rows) -> tuple[str, float, float, tuple[float, float]]:
    """(its name, of the model, of the export, interval of what the export loses).

    Of RMSE / spread, less is better; of the others, more.
    """
    return {"single_label": _accuracy, "multi_label": _f1, "regression": _rmse}[rows.task.name](
        rows
    )


def _accuracy(rows: Rows) -> tuple[str, float, float, tuple[float, float]]:
    before, after = (x.argmax(1) == rows.labels for x in (rows.reference, rows.exported))
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    interval = paired_interval(lost, won, len(before))
    return "accuracy", float(before.mean()), float(after.mean()), interval


def _f1(rows: Rows) -> tuple[str, float, float, tuple[float, float]]:
    truth = np.asarray(rows.labels) > 0
    counts = [label_counts(truth, x > 0) for x in (rows.reference, rows.exported)]
    sums = resampled_sums(np.concatenate(counts, axis=1)).reshape(-1, 2, 3, truth.shape[1])
    draws = [[f1_averages(*one)["f1_micro"] for one in pair] for pair in sums]
    before, after = (f1_averages(*one.sum(0).reshape(3, -1))["f1_micro"] for one in counts)
    return "F1 micro", before, after, middle(-np.diff(np.array(draws), axis=1)[:, 0])


def _rmse(rows: Rows) -> tuple[str, float, float, tuple[float, float]]:
    pair = (rows.reference, rows.exported)
    squares = [np.square((x - rows.labels) / rows.spread) for x in pair]
    columns = squares[0].shape[1]
    sums = resampled_sums(np.concatenate(squares, axis=1)).reshape(-1, 2, columns)
    draws = np.sqrt(sums / len(rows.labels)).mean(2)
    before, after = (float(np.sqrt(x.mean(0)).mean()) for x in squares)
    return "RMSE / spread", before, after, middle(np.diff(draws, axis=1)[:, 0])


@dataclass(frozen=True)
class Verdict:
    """`check`: the numbers, for export.json. `problems`: why this is no export; empty if it is."""

    check: dict[str, Any]
    problems: list[str]
    notes: list[str]


def judge(rows: Rows, precision: str) -> Verdict:
    """Compare an export with the model."""
    n, agree = len(rows.labels), rows.agree()
    names = rows.task.names if agree.shape[1] > 1 or rows.task.name != "single_label" else ("",)
    shares = dict(zip(names, agree.mean(0).tolist(), strict=True))
    worst = min(shares, key=lambda name: shares[name])
    interval = wilson_interval(int(agree[:, list(shares).index(worst)].sum()), n)
    finite = bool(np.isfinite(rows.exported).all())
    far = float(rows.distance().max())
    check: dict[str, Any] = {"n": n, "agreement": shares[worst], "agreement_interval": interval}
    if "" not in shares:
        check["agreement_of"] = shares
    problems, of = [], f" of {worst}" if worst else ""
    if shares[worst] < AGREEMENT - ROUNDING:
        what = f"agreement{of} {shares[worst]:.4f} [{interval[0]:.4f}, {interval[1]:.4f}]"
        problems.append(f"{what} on {n:,} rows: below {AGREEMENT:g}")
    if not finite:
        return Verdict(check, [*problems, "some of its logits are not finite"], [])
    key, before, after, (low, high) = accuracy(rows)
    loss = after - before if rows.task.name == "regression" else before - after
    check |= {"score": key, "before": before, "after": after, "loss": loss}
    check |= {"loss_interval": (low, high), "logits": far, "scale": rows.scale()}
    if loss > LOSS + ROUNDING:
        what = f"{key} {before:.4f} -> {after:.4f}, a loss of {loss:.4f} [{low:.4f}, {high:.4f}]"
        problems.append(f"{what}: above {LOSS:g}")
    if precision == "float32" and far > SAME * max(1.0, float(np.abs(rows.reference).max())):
        problems.append(f"logits differ by up to {far:.2g}, which rounding does not explain")
    if not SCALE[0] <= check["scale"] <= SCALE[1]:
        problems.append(f"logits are scaled by {check['scale']:.3f}: scores would be wrong")
    notes = []
    if interval[1] - interval[0] > WIDE:
        few = f"{n:,} row{'s' * (n != 1)} tell little: agreement may be as low as {interval[0]:.4f}"
        notes.append(f"{few}; check it on more rows")
    return Verdict(check, problems, notes)
