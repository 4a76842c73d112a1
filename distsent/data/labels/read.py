"""The labels of a dataset, by data.task."""

from collections.abc import Collection

from distsent.data.labels.classes import Labels, read_labels
from distsent.data.labels.names import Naming
from distsent.data.labels.numbers import read_numbers
from distsent.data.labels.several import flatten, read_label_columns, read_label_lists
from distsent.data.labels.values import distinct_words
from distsent.data.rows import Rows
from distsent.job.schema import DataSection


def has_labels(rows: Rows, classes: Collection[str]) -> bool:
    """Whether a row has a label. -1 is one only if it is one of `classes`, or a number."""
    columns = rows.columns
    number = columns.task == "regression"
    none = {""} if number else {"", "-1"} - {*classes}
    if columns.has_lists:
        rows = flatten(rows).values
    return any(
        {*distinct_words(some, column, number)[0]} - none
        for part in rows.parts
        for some in part.blocks()
        for column in columns.of_labels
    )


def read_targets(splits: dict[str, Rows], naming: Naming, data: DataSection) -> Labels:
    """The labels of all rows. Raises UserError for what is no label of the task."""
    if data.task == "regression":
        return read_numbers(splits, naming)
    if data.task == "multi_label":
        if data.label_columns:
            return read_label_columns(splits, naming)
        return read_label_lists(splits, naming, data)
    return read_labels(splits, naming, data.fold_labels, data.drop_labels or ())
