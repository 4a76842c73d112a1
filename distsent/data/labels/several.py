"""Several labels per text: from lists, or from a column for each class, to a matrix of 0 and 1."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distsent.data.labels.classes import (
    DROPPED,
    EMPTY,
    MISSING,
    NO_WORD,
    UNLABELED,
    Fault,
    Labels,
    name_files,
    read_labels,
)
from distsent.data.labels.names import Naming
from distsent.data.labels.values import is_list, label_indices, list_error, quote
from distsent.data.rows import Part, Rows
from distsent.errors import UserError
from distsent.formats.records import shorten
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection

YES_OR_NO = {word: value for value, words in enumerate((("0", "false", "False", "FALSE"),
                                                        ("1", "true", "True", "TRUE")))
             for word in words}  # fmt: skip
NO_LABEL = {"": MISSING, "-1": UNLABELED}
NOT_BINARY = -100  # of the first column; -101 of the second, ...
BRACKETS = r"^\s*[\[({].*[\])}]\s*$"


class Lists(NamedTuple):
    """The lists of some rows, end to end."""

    values: Rows
    parents: np.ndarray  # the row of each value, int64 (v,)
    counts: np.ndarray  # values of each row, int64 (n,)
    missing: np.ndarray  # rows without a list, bool (n,)


def read_label_lists(splits: dict[str, Rows], naming: Naming, data: DataSection) -> Labels:
    """The labels of rows that have a list of them, or a text that `label_delimiter` separates."""
    lists = {split: flatten(rows) for split, rows in splits.items()}
    _check_delimiter(splits, lists)
    values = {split: some.values for split, some in lists.items()}
    found = read_labels(values, naming, data.fold_labels, data.drop_labels or ())
    indices, arrays = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for split, some in lists.items():
        of_values, n = found.indices[split], len(some.counts)
        good = of_values >= 0
        arrays[split] = np.zeros((n, len(found.names)), np.uint8)
        arrays[split][some.parents[good], of_values[good]] = 1
        indices[split] = codes = np.zeros(n, np.int64)
        np.minimum.at(codes, some.parents, np.where(of_values == MISSING, NO_WORD, of_values))
        codes[some.parents[of_values == DROPPED]] = DROPPED
        if not data.allow_empty_labels:
            codes[some.counts == 0] = EMPTY
        codes[some.missing] = MISSING
    faults = {
        EMPTY: Fault("an empty list of labels", allowed_by="data.allow_empty_labels"),
        NO_WORD: Fault("a null or blank in the list of labels"),
    }
    return found._replace(indices=indices, arrays=arrays, faults=faults)


def read_label_columns(splits: dict[str, Rows], naming: Naming) -> Labels:
    """The labels of rows that have a 0 or a 1 for each class."""
    columns = next(iter(splits.values())).columns.labels
    parts = [part for rows in splits.values() for part in rows.parts]
    where = f"{name_files(parts)}: data.label_columns"
    if naming.names and {*naming.names} != {*columns}:
        learned = f"the model has learned {quote(naming.names, marks=False)}"
        raise UserError(f"data.label_columns = {to_toml_value(columns)}: {learned}")
    names = naming.names or columns
    indices, arrays = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for split, rows in splits.items():
        matrix = np.empty((len(rows), len(names)), np.int64)
        for k, name in enumerate(names):
            known = YES_OR_NO | NO_LABEL
            codes = (label_indices(p, name, known, NOT_BINARY - k) for p in rows.parts)
            matrix[:, k] = np.concatenate([np.empty(0, np.int64), *chain.from_iterable(codes)])
        indices[split] = np.minimum(matrix.min(axis=1), 0)
        arrays[split] = (matrix == 1).astype(np.uint8)
    faults = {
        NOT_BINARY - k: Fault(f"neither 0 nor 1 in column {name!r}", column=name)
        for k, name in enumerate(names)
    }
    values = {name: name for name in names}
    return Labels(names, indices, values, [], naming, where, arrays, faults)


def flatten(rows: Rows) -> Lists:
    """The values of all lists. Raises UserError for a column that has none."""
    column, delimiter = rows.columns.label, rows.columns.delimiter
    parts = list[Part]()
    parents, counts, missing = [], [], []
    for part, start in zip(rows.parts, rows.starts, strict=False):
        lists = _lists(part, column, delimiter)
        n = np.concatenate([np.empty(0, np.int64), *map(_lengths, lists.chunks)])
        flat = pa.chunked_array(
            [chunk.flatten() for chunk in lists.chunks], type=lists.type.value_type
        )
        rows_of = np.repeat(np.arange(len(n)), n)
        if delimiter:
            words = pc.utf8_trim_whitespace(flat)
            there = pc.not_equal(words, "")
            flat, rows_of = words.filter(there), rows_of[there.to_numpy()]
            n = np.bincount(rows_of, minlength=len(n))
        parts.append(replace(part, table=pa.table({column: flat}), lists=(part, rows_of)))
        parents.append(rows_of + start)
        counts.append(n)
        missing.append(np.asarray(pc.is_null(lists)))
    empty = np.empty(0, np.int64)
    return Lists(
        Rows(parts, rows.columns),
        np.concatenate([empty, *parents]),
        np.concatenate([empty, *counts]),
        np.concatenate([empty.astype(bool), *missing]),
    )


def _lengths(lists: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def _lists(part: Part, column: str, delimiter: str | None) -> pa.ChunkedArray:
    """The column as lists. Raises UserError for a column that has none."""
    values = part.table.column(column)
    if pa.types.is_null(values.type):
        return pa.chunked_array([pa.nulls(len(values), pa.list_(pa.string()))])
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    error, where = "", part.name
    if delimiter and is_list(values.type):
        error = "holds lists: leave out data.label_delimiter, which is for text"
    elif not delimiter and not is_list(values.type) and len(values):
        error = list_error(values[0].as_py(), None)
    elif delimiter and not text:
        error = f"contains {values.type}, neither lists nor text"
    elif delimiter and len(bad := _rows_like_lists(values)):
        shown = shorten(values[int(bad[0])].as_py())
        where = f"{part.name}, {part.number(int(bad[0]))}"
        error = f"{shown} is a list written as text; "
        error += "write lists to jsonl or parquet, or labels with the delimiter alone"
    if error:
        raise UserError(f"{where}: column {column!r}: {error}")
    if not is_list(values.type) and not delimiter:
        return pa.chunked_array([pa.nulls(0, pa.list_(pa.string()))])
    return pc.split_pattern(values, delimiter) if delimiter else values


def _rows_like_lists(values: pa.ChunkedArray) -> np.ndarray:
    like = pc.fill_null(pc.match_substring_regex(values, BRACKETS), False)
    return np.flatnonzero(np.asarray(like))


def _check_delimiter(splits: dict[str, Rows], lists: dict[str, Lists]) -> None:
    """Raises UserError for a delimiter between no two labels of any row."""
    columns = next(iter(splits.values())).columns
    if columns.delimiter and not any((some.counts > 1).any() for some in lists.values()):
        parts = [part for rows in splits.values() for part in rows.parts if part.table.num_rows]
        first = parts[0].table.column(columns.label)[:3].to_pylist() if parts else []
        where = f"data.label_delimiter = {to_toml_value(columns.delimiter)}"
        found = f"it occurs in no label of {name_files(parts)}, column {columns.label!r}"
        raise UserError(f"{where}: {found}, such as {', '.join(map(shorten, first))}")
