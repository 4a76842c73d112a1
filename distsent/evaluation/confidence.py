"""How far a finished run's scores can be trusted: temperature, calibration error, thresholds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distsent.evaluation import thresholds
from distsent.evaluation.calibration import (
    Reliability,
    error_interval,
    fit_temperature,
    top_scores,
)
from distsent.evaluation.thresholds import TARGETS, Curve

FITTED_ON = "validation"  # never on test, which says how well it worked


@dataclass(frozen=True)
class Confidence:
    """`result`: the keys of result.json. `temperature`: what the weights in model/ are divided by.

    `curve`: of the scores that `predict` gives; None without a validation split.
    """

    result: dict[str, Any]
    lines: tuple[str, ...] = ()
    temperature: float = 1.0
    curve: Curve | None = None
    about: dict[str, Any] = field(default_factory=dict)  # of the curve

    def write_thresholds(self, folder: Path) -> None:
        """Write the curve into a model folder."""
        if self.curve is not None:
            thresholds.write_thresholds(folder, self.about, self.curve)


def assess(
    splits: Mapping[str, tuple[np.ndarray, np.ndarray]], calibrate: bool, precision: str
) -> Confidence:
    """What (logits [n, C], labels [n]) of each split say.

    `calibrate`: whether the model folder gets the temperature. The same logits in another order of
    rows give the same temperature within rounding.
    """
    if FITTED_ON not in splits:
        fix = "set data.validation_fraction, e.g. 0.1"
        line = f"calibration: none, as there is no validation split; {fix}"
        return Confidence({"calibration": None, "decisions": None}, (line,))
    logits, labels = splits[FITTED_ON]
    fitted = fit_temperature(logits, labels)
    lines = [f"calibration: {fitted.note}"] if fitted.note else []
    if fitted.value is None:
        return Confidence({"calibration": None, "decisions": None}, tuple(lines))
    measured_on = "test" if "test" in splits else FITTED_ON
    calibration = describe_calibration(*splits[measured_on], fitted.value)
    about = {"fitted_on": FITTED_ON, "split": measured_on, "folded": calibrate}
    temperature = fitted.value if calibrate else 1.0
    curve = Curve.of(*top_scores(logits, labels, temperature))
    decisions = None
    if measured_on != FITTED_ON and np.isfinite(splits[measured_on][0]).all():
        found = top_scores(*splits[measured_on], temperature)
        rows = [_decision(curve, target, found) for target in TARGETS]
        decisions = {"split": measured_on, "n": len(found[0]), "targets": rows}
    lines.append(_summary(calibration, measured_on))
    return Confidence(
        {"calibration": {**calibration, **about}, "decisions": decisions},
        tuple(lines),
        temperature,
        curve,
        {"split": FITTED_ON, "computed_in": precision, "temperature": temperature},
    )


def describe_calibration(
    logits_nC: np.ndarray, labels_n: np.ndarray, temperature: float
) -> dict[str, Any]:
    """Temperature and expected calibration errors before and after it, with intervals."""
    out: dict[str, Any] = {"temperature": temperature}
    for name, value in (("ece_before", 1.0), ("ece_after", temperature)):
        scores, right = top_scores(logits_nC, labels_n, value)
        known = bool(np.isfinite(scores).all())
        out[name] = Reliability.of(scores, right).error if known else None
        out[f"{name}_interval"] = error_interval(scores, right) if known else None
    return {**out, "n": len(labels_n)}


def _summary(calibration: Mapping[str, Any], split: str) -> str:
    line = f"calibration: temperature {calibration['temperature']:.4g}"
    if calibration["ece_before"] is None:
        return f"{line}; the scores on {split} are not finite"
    errors = " -> ".join(f"{calibration[f'ece_{when}']:.4f}" for when in ("before", "after"))
    fitted = ", which it was fitted on" if split == FITTED_ON else ""
    return f"{line}, expected calibration error {errors} on {split}{fitted}"


def _decision(curve: Curve, target: float, found: tuple[np.ndarray, np.ndarray]) -> dict[str, Any]:
    """What the threshold for a precision does on other rows; None where none reaches it."""
    point = curve.lowest(target)
    if point is None:
        best = float(curve.precision.max())
        return {"min_precision": target, "threshold": None, "best_precision": best}
    threshold = float(curve.threshold[point])
    measured = thresholds.measure(*found, threshold)
    return {"min_precision": target, "threshold": threshold, **measured}
