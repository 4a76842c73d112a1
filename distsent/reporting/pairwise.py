"""One finished run against another, row by row."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.significance import compare_predictions

HEAD = (
    "run", "against", "accuracy", "right alone", "McNemar p", "F1", "95 % interval", "bootstrap p",
)  # fmt: skip
EXPLANATION = (
    "Differences on the same rows. Right alone: rows that only this run, and only the other, has "
    "right; McNemar's exact test compares these. Below 0.05, chance is an unlikely explanation; "
    "among many runs, expect one in twenty below 0.05 by chance."
)


def compare_runs(first: FinishedRun, other: FinishedRun, split: str) -> dict[str, Any]:
    """The comparison as plain values; `untested` gives the reason if there is none."""
    names = {"run": other.name, "against": first.name}
    a, b = first.predictions(split), other.predictions(split)
    if a is None or b is None:
        missing = other if b is None else first
        return names | {"untested": f"{missing.name} has no predictions of its {split} split"}
    if first.labels != other.labels:
        return names | {"untested": "their classes differ"}
    if not (np.array_equal(a.labels, b.labels) and np.array_equal(a.rows, b.rows)):
        return names | {"untested": f"their {split} splits hold different rows"}
    texts = {run.result.get("texts", {}).get(split) for run in (first, other)}
    if len(texts - {None}) > 1:  # runs of older versions have no hash of their texts
        return names | {"untested": f"their {split} splits hold different texts"}
    compared = compare_predictions(a.labels, a.classes, b.classes, len(first.labels))
    return names | asdict(compared)


def format_pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons as a markdown table with an explanation; empty without any."""
    rows = []
    for pair in pairs:
        row = [pair["run"], pair["against"]]
        if "untested" in pair:
            row += [f"untested: {pair['untested']}", *[""] * (len(HEAD) - 3)]
        else:
            low, high = pair["f1_interval"]
            row += [f"{pair['accuracy']:+.4f}", f"{pair['only_b']:,} : {pair['only_a']:,}"]
            row += [f"{pair['mcnemar']:.4g}", f"{pair['f1']:+.4f}"]
            row += [f"[{low:+.4f}, {high:+.4f}]", f"{pair['f1_p']:.4g}"]
        rows.append(row)
    return f"\n{markdown_table(HEAD, rows)}\n{EXPLANATION}\n" if rows else ""
