"""Tables of what result.json says about a run's scores: calibration, and when to abstain."""

from collections.abc import Mapping, Sequence
from typing import Any

from distsent.reporting.markdown import markdown_table

Record = Mapping[str, Any]


def of_run(result: Record) -> dict[str, Any]:
    """What result.json says about one run's scores."""
    return {key: result.get(key) for key in ("name", "calibration", "decisions")}


def format_confidence(results: Sequence[Record]) -> str:
    """Both tables with their titles, as the end of a report."""
    titles = {
        "Calibration: a temperature fitted on validation, expected calibration error (ECE).":
            format_calibration(results),
        "Labels below the threshold left out: their share (coverage) and precision, on test.":
            format_decisions(results),
    }  # fmt: skip
    return "".join(f"\n{title}\n\n{table}" for title, table in titles.items() if table)


def format_calibration(results: Sequence[Record]) -> str:
    """A markdown table of temperatures and errors; empty if no run has them."""
    rows = []
    for result in results:
        found = result.get("calibration")
        if found:
            errors = [with_interval(found, f"ece_{when}") for when in ("before", "after")]
            where = "yes" if found["folded"] else "no"
            temperature = f"{found['temperature']:.4f}"
            rows.append([result["name"], found["split"], temperature, where, *errors])
    head = ["run", "split", "temperature", "in model/", "ECE before", "ECE after"]
    return markdown_table(head, rows) if rows else ""


def format_decisions(results: Sequence[Record]) -> str:
    """A markdown table of thresholds and what they do on test; empty if no run has them."""
    rows = []
    for result in results:
        found = result.get("decisions") or {"targets": ()}
        for one in found["targets"]:
            target = f"{one['min_precision']:g}"
            if one["threshold"] is None:
                cells = [f"not reached (best {one['best_precision']:.4f})", "-", "-"]
            else:
                shares = (with_interval(one, key) for key in ("coverage", "precision"))
                cells = [f"{one['threshold']:.4f}", *shares]
            rows.append([result["name"], target, *cells])
    head = ["run", "min precision", "threshold", "coverage", "precision"]
    return markdown_table(head, rows) if rows else ""


def with_interval(values: Record, key: str) -> str:
    """A value and its interval."""
    if values[key] is None:
        return "-"
    low, high = values[f"{key}_interval"]
    return f"{values[key]:.4f} [{low:.4f}, {high:.4f}]"
