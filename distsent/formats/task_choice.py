"""Which data.task the columns of a dataset suggest, with the keys that read its labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from distsent.formats.column_choice import LABEL, Column, label_score, several_labels

MOST_WORDS = 8  # of a label, on average
FEW_CLASSES = 100  # in lists of a column that is not named like a label
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?", re.ASCII)


def suggest_task(columns: Sequence[Column], label: str | None) -> dict[str, Any]:
    """The keys of a task with several labels or with numbers; empty if nothing suggests one.

    `label`: the column that looks most like the classes of a single label, if one does.
    """
    least = label_score(label) if label else 0.0
    for column in sorted(columns, key=lambda column: -label_score(column.name)):
        distinct = _in_lists(column)
        telling = label_score(column.name) > least
        named = telling or column.name == label
        if distinct and (named or (label is None and distinct <= FEW_CLASSES)):
            return {LABEL: column.name, "data.task": "multi_label"}
        if telling and _holds_decimals(column):
            return {LABEL: column.name, "data.task": "regression"}
    several = several_labels(columns) if label is None else []
    return {"data.task": "multi_label", "data.label_columns": several} if several else {}


def _in_lists(column: Column) -> int:
    """The number of different words or integers in lists, some of them of several; 0 for others."""
    lists = column.lists
    labels = {str(one) for some in lists for one in some}
    words = sum(label.count(" ") + 1 for label in labels)
    several = any(len(some) > 1 for some in lists)
    return len(labels) if several and words <= MOST_WORDS * len(labels) else 0


def _holds_decimals(column: Column) -> bool:
    """Whether the values are numbers, and some are no integers."""
    values = [value.strip() for value in column.sample]
    return all(map(_NUMBER.fullmatch, values)) and any(
        float(value) != int(float(value)) for value in values
    )
