"""Tables of what result.json says about a run's scores: calibration, and thresholds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from distsent.reporting.markdown import markdown_table, titles

Record = Mapping[str, Any]


def of_run(result: Record) -> dict[str, Any]:
    """What result.json says about one run's scores."""
    keys = ("name", "calibration", "decisions", "thresholds")
    return {key: result.get(key) for key in keys if key != "thresholds" or key in result}


def format_confidence(results: Sequence[Record]) -> str:
    """All tables with their titles, as the end of a report."""
    tables = {
        "Calibration: temperatures fitted on validation, expected calibration error (ECE).":
            format_calibration(results),
        "Labels below the threshold left out: their share (coverage) and precision, on test.":
            format_abstaining(results),
        "Several labels, each from a threshold on: that of its best F1 on validation; scores on "
        "test.": format_thresholds(results),
        "Several labels, each from the score on that reaches a precision on validation, or never: "
        "texts with a label (coverage), precision and recall over all labels, on test.":
            format_targets(results),
    }  # fmt: skip
    return "".join(f"\n{title}\n\n{table}" for title, table in tables.items() if table)


def format_calibration(results: Sequence[Record]) -> str:
    """A markdown table of temperatures and errors; empty if no run has them."""
    rows = []
    for result in results:
        found = result.get("calibration")
        if found:
            errors = [with_interval(found, f"ece_{when}") for when in ("before", "after")]
            where = "yes" if found["folded"] else "no"
            temperature = np.atleast_1d(found["temperature"])
            ends = dict.fromkeys(f"{x:.4f}" for x in (temperature.min(), temperature.max()))
            rows.append([result["name"], found["split"], " to ".join(ends), where, *errors])
    head = ["run", "split", "temperature", "in model/", "ECE before", "ECE after"]
    return markdown_table(head, rows) if rows else ""


def format_abstaining(results: Sequence[Record]) -> str:
    """A markdown table of thresholds and what they do on test; empty if no run has them."""
    rows = []
    for name, one in _targets(results, "threshold"):
        if one["threshold"] is None:
            cells = [f"not reached (best {one['best_precision']:.4f})", "-", "-"]
        else:
            shares = (with_interval(one, key) for key in ("coverage", "precision"))
            cells = [f"{one['threshold']:.4f}", *shares]
        rows.append([name, f"{one['min_precision']:g}", *cells])
    head = ["run", "min precision", "threshold", "coverage", "precision"]
    return markdown_table(head, rows) if rows else ""


def format_targets(results: Sequence[Record]) -> str:
    """A markdown table of precisions for each of several labels; empty if no run has them."""
    rows = []
    for name, one in _targets(results, "labels"):
        reached = f"{one['labels']:,} of {one['labels'] + len(one['never']):,}"
        shares = [with_interval(one, key) for key in ("coverage", "precision")]
        recall = "-" if one["recall"] is None else f"{one['recall']:.4f}"
        rows.append([name, f"{one['min_precision']:g}", reached, *shares, recall])
    head = ["run", "min precision", "labels that reach it", "coverage", "precision", "recall"]
    return markdown_table(head, rows) if rows else ""


def format_thresholds(results: Sequence[Record]) -> str:
    """A markdown table of scores from 0.5 on, and from each label's threshold on."""
    keys = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "subset_accuracy")
    rows = []
    for result in results:
        if found := result.get("thresholds"):
            pairs = {"0.5": result["eval"][found["split"]], "of best F1": found}
            for name, scores in pairs.items():
                rows.append([result["name"], name, *(f"{scores[key]:.4f}" for key in keys)])
    return markdown_table(["run", "threshold", *titles(*keys)], rows) if rows else ""


def format_labels(result: Record) -> str:
    """A markdown table of a run's labels: temperature, threshold, scores from it on."""
    found, calibration = result.get("thresholds"), result.get("calibration")
    if not found or not calibration:
        return ""
    keys = ("threshold", "precision", "recall", "f1")
    labels = zip(found["per_label"].items(), calibration["temperature"], strict=True)
    rows = [
        [name, f"{temperature:.4f}", *(f"{one[key]:.4f}" for key in keys), f"{one['n']:,}"]
        for (name, one), temperature in labels
    ]
    return markdown_table(["label", "temperature", *titles(*keys), "rows"], rows)


def _targets(results: Sequence[Record], key: str) -> Iterator[tuple[str, Record]]:
    """(run, what it does) of those targets that have the key."""
    for result in results:
        for one in (result.get("decisions") or {"targets": ()})["targets"]:
            if key in one:
                yield result["name"], one


def with_interval(values: Record, key: str) -> str:
    """A value and its interval."""
    if values[key] is None:
        return "-"
    low, high = values[f"{key}_interval"]
    return f"{values[key]:.4f} [{low:.4f}, {high:.4f}]"
