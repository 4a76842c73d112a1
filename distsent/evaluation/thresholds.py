"""At which score to answer and when to abstain: the curve of thresholds, measured on validation."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128

from distsent.errors import UserError
from distsent.evaluation.intervals import wilson_interval
from distsent.storage import is_file

FILE = "thresholds.json"  # in the model folder
TARGETS = (0.8, 0.9, 0.95, 0.99)  # precisions that a finished run is measured for
# Points of a curve: evenly spaced over the rows, and denser among the highest scores.
EVEN, DENSE = 256, 64
DIGITS = 6  # of shares and intervals in the file


@dataclass(frozen=True)
class Curve:
    """For each threshold, lowest first: rows with at least this score, and right ones of them.

    precision: of the answered rows, those that are right. coverage: of all `n` rows, those that are
    answered. recall: of all rows, those that are answered and right.
    """

    n: int
    threshold: np.ndarray
    answered: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, scores_n: np.ndarray, right_n: np.ndarray) -> "Curve":
        """The curve of top scores and whether they are right [n], n >= 1."""
        order = np.argsort(-scores_n, kind="stable")
        scores, right = scores_n[order].astype(np.float64), np.cumsum(right_n[order])
        # Equal scores are answered together.
        ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        n = len(ends)
        spaced = np.linspace(0, n - 1, EVEN), np.geomspace(1, n, DENSE) - 1
        kept = ends[np.unique(np.rint(np.concatenate(spaced)).astype(int))][::-1]
        # Halfway to the next score: another batch, which rounds differently, gives the same labels.
        below = np.append(scores, 0.0)[kept + 1]
        threshold = np.where(kept == len(scores) - 1, 0.0, (scores[kept] + below) / 2)
        return cls(len(scores), threshold, kept + 1, right[kept])

    @cached_property
    def precision(self) -> np.ndarray:
        return self.right / self.answered

    @cached_property
    def recall(self) -> np.ndarray:
        return self.right / self.n

    @cached_property
    def coverage(self) -> np.ndarray:
        return self.answered / self.n

    def lowest(self, min_precision: float, min_recall: float = 0.0) -> int | None:
        """The point that answers most rows of those that reach both. None if none does."""
        good = np.flatnonzero((self.precision >= min_precision) & (self.recall >= min_recall))
        return int(good[0]) if len(good) else None

    def highest(self, min_recall: float) -> int | None:
        """The point that answers fewest rows of those that reach the recall."""
        good = np.flatnonzero(self.recall >= min_recall)
        return int(good[-1]) if len(good) else None

    def describe(self, i: int) -> str:
        """What the rows say about a threshold."""
        low, high = wilson_interval(int(self.right[i]), int(self.answered[i]))
        precision = f"precision {self.precision[i]:.4f} [{low:.4f}, {high:.4f}]"
        return f"{precision}, recall {self.recall[i]:.4f}, coverage {self.coverage[i]:.4f}"

    def to_dict(self) -> dict[str, Any]:
        """One list per column, with 95 % intervals (Wilson)."""
        answered, right = self.answered.tolist(), self.right.tolist()
        columns: dict[str, Any] = {"threshold": self.threshold.tolist()}
        columns |= {"answered": answered, "right": right}
        ratios = {
            "precision": list(zip(right, answered, strict=True)),
            "recall": [(part, self.n) for part in right],
            "coverage": [(part, self.n) for part in answered],
        }
        for name, pairs in ratios.items():
            columns[name] = [round(a / b, DIGITS) for a, b in pairs]
            intervals = [wilson_interval(a, b) for a, b in pairs]
            columns[f"{name}_interval"] = [[round(x, DIGITS) for x in one] for one in intervals]
        return {"rows": self.n, **columns}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> "Curve":
        """The inverse of `to_dict`. Raises ValueError, KeyError or TypeError for anything else."""
        columns = [np.asarray(tree[key]) for key in ("threshold", "answered", "right")]
        curve = cls(int(tree["rows"]), *columns)
        lengths = {len(column) for column in columns}
        if lengths != {len(curve.threshold)} or not len(curve.threshold):
            raise ValueError("columns of different lengths")
        if not (curve.right >= 0).all() or not (curve.right <= curve.answered).all():
            raise ValueError("more right rows than answered ones")
        return curve


def measure(scores_n: np.ndarray, right_n: np.ndarray, threshold: float) -> dict[str, Any]:
    """Coverage and precision [n] at a threshold, with intervals; precision None if none answers."""
    answers = scores_n >= threshold
    n, answered, right = len(answers), int(answers.sum()), int((answers & right_n).sum())
    return {
        "coverage": answered / n,
        "coverage_interval": wilson_interval(answered, n),
        "precision": right / answered if answered else None,
        "precision_interval": wilson_interval(right, answered) if answered else None,
    }


def hash_weights(folder: Path) -> str:
    """A hash of the weights in a model folder: a curve is that of these weights alone."""
    digest = xxh3_128()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def write_thresholds(folder: Path, about: Mapping[str, Any], curve: Curve) -> None:
    """Write the curve beside the weights that it was measured with."""
    content = {**about, "weights": hash_weights(folder), "curve": curve.to_dict()}
    (folder / FILE).write_text(json.dumps(content) + "\n", encoding="utf-8")


def read_thresholds(folder: Path) -> tuple[Curve, dict[str, Any]]:
    """The curve of a model folder, and what else its file says. Raises UserError."""
    path = folder / FILE
    otherwise = "give --threshold instead"
    if not is_file(path):
        why = "its run had no validation split, or it was saved by another program"
        raise UserError(f"{folder}: no {FILE}: {why}; {otherwise}")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        curve = Curve.from_dict(about["curve"])
        expected = about["weights"]
        about |= {key: str(about[key]) for key in ("split", "computed_in")}
    except (ValueError, KeyError, TypeError) as error:
        problem = f"not a curve of thresholds ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {problem}; {otherwise}") from None
    if expected != hash_weights(folder):
        problem = "measured with other weights than those in this folder"
        raise UserError(f"{path}: {problem}; train again, or {otherwise}")
    return curve, about


@dataclass(frozen=True)
class Chosen:
    """A threshold, a line about it, and the precision in which its scores were computed."""

    threshold: float
    line: str
    computed_in: str


def choose_threshold(folder: Path, min_precision: float | None, min_recall: float | None) -> Chosen:
    """The threshold that reaches the targets on validation.

    With a precision, the one that answers most texts; with a recall alone, the one that answers
    fewest. Raises UserError if no threshold reaches them.
    """
    curve, about = read_thresholds(folder)
    rows = f"on the {curve.n:,} {about['split']} rows"
    asked = [
        f"--min-{name} {value:g}"
        for name, value in (("precision", min_precision), ("recall", min_recall))
        if value is not None
    ]
    if min_precision is None:
        found = curve.highest(min_recall or 0.0)
        best = int(curve.recall.argmax())
    else:
        found = curve.lowest(min_precision, min_recall or 0.0)
        best = int(curve.precision.argmax())
        if (reached := curve.lowest(min_precision)) is not None:
            best = reached
    if found is None:
        what = f"{' and '.join(asked)}: not reached {rows}"
        raise UserError(f"{what}; the best is {curve.describe(best)}")
    threshold = float(curve.threshold[found])
    line = f"threshold {threshold:.6g}: {rows} {curve.describe(found)}"
    return Chosen(threshold, line, about["computed_in"])
