"""Whether two models differ by more than chance: tests on the same rows, paired row by row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.markdown import markdown_table
from distsent.reporting.tasks.choose import report_of

CHANCE = (
    "Below 0.05, chance is an unlikely explanation; among many runs, expect one in twenty below "
    "0.05 by chance."
)


def compare_runs(first: FinishedRun, other: FinishedRun, split: str) -> dict[str, Any]:
    """The comparison as plain values; `untested` gives the reason if there is none."""
    names = {"run": other.name, "against": first.name}
    a, b = first.predictions(split), other.predictions(split)
    if a is None or b is None:
        missing = other if b is None else first
        return names | {"untested": f"{missing.name} has no predictions of its {split} split"}
    if first.task.name != other.task.name:
        return names | {"untested": "their tasks differ"}
    if first.labels != other.labels:
        return names | {"untested": "their classes differ"}
    if not (np.array_equal(a.labels, b.labels) and np.array_equal(a.rows, b.rows)):
        return names | {"untested": f"their {split} splits hold different rows"}
    texts = {run.texts(split) for run in (first, other)}
    if len(texts - {None}) > 1:  # runs of older versions have no hash of their texts
        return names | {"untested": f"their {split} splits hold different texts"}
    return names | report_of(first.task).compare(a.labels, a.logits, b.logits)


def format_pairs(first: FinishedRun, pairs: Sequence[Mapping[str, Any]]) -> str:
    """The comparisons with `first` as a markdown table, explained; empty without any."""
    report, rows, tested = report_of(first.task), [], {}
    for pair in pairs:
        if "untested" in pair:
            cells = [f"untested: {pair['untested']}", *[""] * (len(report.compared) - 1)]
        else:
            cells, tested[pair["run"]] = report.cells(pair), pair
        rows.append([pair["run"], pair["against"], *cells])
    if not rows:
        return ""
    table = markdown_table(["run", "against", *report.compared], rows)
    details = report.details(tested) if tested else ""
    return f"\n{table}\n{report.explanation} {CHANCE}\n" + (
        f"\n{details.rstrip()}\n" if details else ""
    )
