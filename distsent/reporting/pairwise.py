"""One finished run against another, row by row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.significance import compare_predictions

HEAD = (
    "run",
    "against",
    "accuracy",
    "right alone",
    "McNemar p",
    "F1",
    "95 % interval",
    "bootstrap p",
)


def compare_runs(first: FinishedRun, other: FinishedRun, split: str) -> dict[str, Any]:
    """The comparison as plain values; `untested` says why where there is none."""
    names = {"run": other.name, "against": first.name}
    a, b = first.predictions(split), other.predictions(split)
    if a is None or b is None:
        missing = other if b is None else first
        return {**names, "untested": f"{missing.name} kept no predictions of its {split} split"}
    if first.labels != other.labels:
        return {**names, "untested": "their classes differ"}
    if len(a.labels) != len(b.labels) or not (
        np.array_equal(a.labels, b.labels) and np.array_equal(a.rows, b.rows)
    ):
        return {**names, "untested": f"their {split} splits hold different rows"}
    texts = {run.result.get("texts", {}).get(split) for run in (first, other)} - {
        None
    }  # runs of older versions do not tell
    if len(texts) > 1:
        return {**names, "untested": f"their {split} splits hold different texts"}
    return {
        **names,
        **compare_predictions(a.labels, a.classes, b.classes, len(first.labels)).to_dict(),
    }


def format_pairs(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The table as people read it, or nothing."""
    if not pairs:
        return ""
    rows = [
        [one["run"], one["against"], f"untested: {one['untested']}", *[""] * (len(HEAD) - 3)]
        if "untested" in one
        else [
            one["run"], one["against"], f"{one['accuracy']:+.4f}", f"{one['only_b']:,} : {one['only_a']:,}",
            f"{one['mcnemar']:.4g}",
            f"{one['f1']:+.4f}", f"[{one['f1_interval'][0]:+.4f}, {one['f1_interval'][1]:+.4f}]", f"{one['f1_p']:.4g}",
        ]
        for one in pairs
    ]  # fmt: skip
    told = (
        "Differences on the same rows. Right alone: rows that only the one, and only the other, has right; McNemar's exact test is "
        "of these. Below 0.05 luck is an unlikely explanation; with many runs, expect one in twenty by luck."
    )
    return f"\n{markdown_table(HEAD, rows)}\n{told}\n"
