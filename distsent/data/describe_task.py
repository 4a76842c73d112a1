"""Which data.task the columns of a dataset suggest, with the keys that read its labels."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from distsent.formats.column_choice import LABEL, Column, label_score, several_labels

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
        if distinct and (telling or (label is None and distinct <= FEW_CLASSES)):
            return {LABEL: column.name, "data.task": "multi_label"}
        if label is None and telling and _holds_decimals(column):
            return {LABEL: column.name, "data.task": "regression"}
    several = several_labels(columns) if label is None else []
    return {"data.task": "multi_label", "data.label_columns": several} if several else {}


def _in_lists(column: Column) -> int:
    """The number of different words or integers in lists, some of them of several; 0 for others."""
    if not column.nested or column.nested < column.rows - column.missing:
        return 0
    lists = [json.loads(value) for value in column.sample]
    if not all(isinstance(some, list) for some in lists) or not any(len(s) > 1 for s in lists):
        return 0
    values = [one for some in lists for one in some]
    return len({*map(str, values)}) if all(isinstance(one, str | int) for one in values) else 0


def _holds_decimals(column: Column) -> bool:
    """Whether the values are numbers, and some are no integers."""
    values = [value.strip() for value in column.sample]
    return all(map(_NUMBER.fullmatch, values)) and any(
        float(value) != int(float(value)) for value in values
    )
