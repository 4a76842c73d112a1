"""How far a finished run's scores can be trusted: temperature, calibration error, thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distsent.evaluation.calibration import (
    Reliability,
    describe_fits,
    error_interval,
    expected_error,
)
from distsent.evaluation.chosen_thresholds import write_thresholds
from distsent.evaluation.tasks.task import Task
from distsent.evaluation.thresholds import Curve

FITTED_ON = "validation"  # never on test, which says how well it worked
UNCHANGED = np.ones(1)


@dataclass(frozen=True)
class Confidence:
    """`result`: the keys of result.json. `temperature`: what the logits of model/ are divided by.

    `curves`: of the scores that `predict` gives; empty without a validation split.
    """

    result: dict[str, Any]
    lines: tuple[str, ...] = ()
    temperature: np.ndarray = field(default_factory=UNCHANGED.copy)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)  # of the curves

    def write_thresholds(self, folder: Path) -> None:
        """Write the curves into a model folder."""
        if self.curves:
            write_thresholds(folder, self.about, self.curves)


def assess(
    task: Task, splits: Mapping[str, tuple[np.ndarray, np.ndarray]], calibrate: bool, precision: str
) -> Confidence:
    """What (logits [n, C], labels) of each split say.

    `calibrate`: whether the model folder gets the temperature. The same logits in another order of
    rows give the same temperature within rounding.
    """
    nothing = dict.fromkeys(("calibration", "decisions", *task.confidence_keys))
    if not task.decisions:
        line = f"calibration: none for data.task = {task.name!r}, which has no scores of labels"
        return Confidence(nothing, (line,))
    if FITTED_ON not in splits:
        fix = "set data.validation_fraction, e.g. 0.1"
        line = f"calibration: none, as there is no validation split; {fix}"
        return Confidence(nothing, (line,))
    logits, labels = splits[FITTED_ON]
    fitted = dict(zip(task.decisions, task.temperatures(logits, labels), strict=True))
    lines = describe_fits(fitted)
    if any(one.value is None for one in fitted.values()):
        return Confidence(nothing, tuple(lines))
    best = np.array([one.value for one in fitted.values()])
    measured_on = "test" if "test" in splits else FITTED_ON
    calibration = describe_calibration(task, *splits[measured_on], best)
    about = {"fitted_on": FITTED_ON, "split": measured_on, "folded": calibrate}
    lines.append(_summary(calibration, measured_on))
    used = best if calibrate else np.ones_like(best)
    columns = (x.T for x in task.confidences(logits, labels, used))
    curves = {name: task.curve(*pair) for name, *pair in zip(task.decisions, *columns, strict=True)}
    result = {**nothing, "calibration": {**calibration, **about}}
    if measured_on != FITTED_ON and np.isfinite(splits[measured_on][0]).all():
        found = task.confidences(*splits[measured_on], used)
        where = {"split": measured_on, "n": len(found[0])}
        result |= {key: {**where, **one} for key, one in task.measured(curves, *found).items()}
    lines += task.summary(result)
    of_curves = {"split": FITTED_ON, "computed_in": precision, "temperature": as_json(task, used)}
    return Confidence(result, tuple(lines), used, curves, of_curves)


def as_json(task: Task, temperature: np.ndarray) -> float | list[float]:
    """A number of one label per text, else a list in the order of the labels."""
    return float(temperature[0]) if "" in task.decisions else temperature.tolist()


def describe_calibration(
    task: Task, logits_nC: np.ndarray, labels: np.ndarray, temperature: np.ndarray
) -> dict[str, Any]:
    """Temperature and expected calibration errors before and after it, with intervals."""
    out: dict[str, Any] = {"temperature": as_json(task, temperature)}
    per_label: dict[str, dict[str, float]] = {name: {} for name in task.decisions}
    known = bool(np.isfinite(logits_nC).all())
    for key, value in (("ece_before", np.ones_like(temperature)), ("ece_after", temperature)):
        out[key] = out[f"{key}_interval"] = None
        if known:
            scores, true = task.confidences(logits_nC, labels, value)
            out[key], out[f"{key}_interval"] = (
                expected_error(scores, true),
                error_interval(scores, true),
            )
            for one, *pair in zip(per_label.values(), scores.T, true.T, strict=True):
                one[key] = Reliability.of(*pair).error
    if known and "" not in per_label:
        out["per_label"] = per_label
    return {**out, "n": len(labels)}


def _summary(calibration: Mapping[str, Any], split: str) -> str:
    found = calibration["temperature"]
    what = f"temperature {found:.4g}" if isinstance(found, float) else None
    what = what or f"temperatures from {min(found):.4g} to {max(found):.4g}"
    line = f"calibration: {what}"
    if calibration["ece_before"] is None:
        return f"{line}; the scores on {split} are not finite"
    errors = " -> ".join(f"{calibration[f'ece_{when}']:.4f}" for when in ("before", "after"))
    fitted = ", which it was fitted on" if split == FITTED_ON else ""
    return f"{line}, expected calibration error {errors} on {split}{fitted}"
