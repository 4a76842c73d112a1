"""The thresholds in a model folder, and those that `predict` chooses from its curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128

from distsent.errors import UserError
from distsent.evaluation.exported import PARTS
from distsent.evaluation.intervals import wilson_interval
from distsent.evaluation.thresholds import Curve, Target
from distsent.storage import is_file

FILE = "thresholds.json"
SHOWN = 10  # names of labels in a line
FEW = 10  # rows that a label is given to, which tell little about its threshold


def hash_weights(folder: Path) -> str:
    """A hash of the weights in a model folder: a curve is that of these weights alone."""
    digest = xxh3_128()
    exported = (folder / name for name in PARTS if is_file(folder / name))
    for path in sorted((*folder.glob("*.safetensors"), *exported)):
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def write_thresholds(folder: Path, about: Mapping[str, Any], curves: Mapping[str, Curve]) -> None:
    """Write the curves beside the weights that they were measured with.

    `curves`: by label, or one without a name if a text has one label.
    """
    trees = {name: curve.to_dict() for name, curve in curves.items()}
    kept = {"curve": trees[""]} if "" in trees else {"curves": trees}
    content = {**about, "weights": hash_weights(folder), **kept}
    (folder / FILE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def read_thresholds(folder: Path) -> tuple[dict[str, Curve], dict[str, Any]]:
    """The curves of a model folder, and what else its file says. Raises UserError."""
    path = folder / FILE
    otherwise = "give --threshold instead"
    if not is_file(path):
        why = "its run had no validation split, or it was saved by another program"
        raise UserError(f"{folder}: no {FILE}: {why}; {otherwise}")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        trees = {"": about["curve"]} if "curve" in about else about["curves"]
        curves = {name: Curve.from_dict(tree) for name, tree in trees.items()}
        if not curves:
            raise ValueError("no labels")
        expected = about["weights"]
        about |= {key: str(about[key]) for key in ("split", "computed_in")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"not a curve of thresholds ({type(error).__name__}: {error})"
        raise UserError(f"{path}: {problem}; {otherwise}") from None
    if expected != hash_weights(folder):
        problem = "measured with other weights than those in this folder"
        raise UserError(f"{path}: {problem}; train again, or {otherwise}")
    return curves, about


@dataclass(frozen=True)
class Chosen:
    """A threshold for each decision, lines about them, and the precision of their scores."""

    thresholds: np.ndarray
    lines: tuple[str, ...]
    computed_in: str


def choose_thresholds(folder: Path, target: Target) -> Chosen:
    """The thresholds that reach the target on validation; infinity for a label that does not.

    Raises UserError if none does.
    """
    curves, about = read_thresholds(folder)
    rows = f"on the {next(iter(curves.values())).n:,} {about['split']} rows"
    points = {name: target.point(curve) for name, curve in curves.items()}
    reached = {name: i for name, i in points.items() if i is not None}
    if not reached and str(target):
        closest = {name: curve for name, curve in curves.items() if curve.positive}
        raise UserError(f"{target}: not reached {rows}{_best(target, closest)}")
    thresholds = np.array([target.threshold(curve) for curve in curves.values()])
    lines = _lines_of_labels(target, curves, reached, rows)
    if "" in curves:
        described = curves[""].describe(reached[""])
        lines = [f"threshold {thresholds[0]:.6g}: {rows} {described}"]
    return Chosen(thresholds, tuple(lines), about["computed_in"])


def _best(target: Target, curves: Mapping[str, Curve]) -> str:
    """What comes closest to a target that no curve reaches."""
    nearest = [(name, curve, target.nearest(curve)) for name, curve in curves.items()]
    if not nearest:
        return ", where no row has a label"
    key = "recall" if target.min_precision is None else "precision"
    name, curve, i = max(nearest, key=lambda one: getattr(one[1], key)[one[2]])
    return f"; the best is {name and f'{name}: '}{curve.describe(i)}"


def _lines_of_labels(
    target: Target, curves: Mapping[str, Curve], reached: Mapping[str, int], rows: str
) -> list[str]:
    right, given = (
        sum(int(getattr(curves[name], key)[i]) for name, i in reached.items())
        for key in ("right", "answered")
    )
    low, high = wilson_interval(right, given) if given else (0.0, 1.0)
    what = f"thresholds for {len(reached):,} of {len(curves):,} labels ({str(target) or 'best F1'})"
    positive = max(1, sum(curve.positive for curve in curves.values()))
    found = f"precision {right / max(1, given):.4f} [{low:.4f}, {high:.4f}]"
    lines = [f"{what}: {rows} {found}, recall {right / positive:.4f}, over all labels"]
    others = [name for name in curves if name not in reached]
    why = f"never given, as they do not reach {target}"
    if not str(target):
        why = f"given from a score of 0.5 on, as no {rows.split()[-2]} row has them"
    lines += [f"{why}: {_listed(others)}"] if others else []
    few = [name for name, i in reached.items() if curves[name].answered[i] < FEW]
    lines += [f"on fewer than {FEW} rows rest the thresholds of {_listed(few)}"] if few else []
    return lines


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
