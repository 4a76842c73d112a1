"""Several labels per text: from lists, or from a column for each class, to a matrix of 0 and 1."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

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
from distsent.data.labels.flags import (
    YES_OR_NO,
    Lists,
    count_places,
    name_places,
    note_places,
    to_places,
)
from distsent.data.labels.names import Naming
from distsent.data.labels.values import (
    is_list,
    label_indices,
    list_error,
    normalize_label,
    quote,
    written_list,
)
from distsent.data.row_arrays import RowArray, blocks
from distsent.data.rows import Part, Rows
from distsent.errors import UserError
from distsent.formats.records import shorten
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection

NO_LABEL = {"": MISSING, "-1": UNLABELED}
NOT_BINARY = -100  # of the first column; -101 of the second, ...
BRACKETS = r"^\s*[\[({].*[\])}]\s*$"


def read_label_lists(splits: dict[str, Rows], naming: Naming, data: DataSection) -> Labels:
    """The labels of rows that have a list of them, or a text that `label_delimiter` separates."""
    lists = {split: flatten(rows) for split, rows in splits.items()}
    _check_delimiter(splits, lists)
    parts = [part for rows in splits.values() for part in rows.parts if part.table.num_rows]
    where = f"{name_files(parts)}: column {next(iter(splits.values())).columns.label!r}"
    places: tuple[str, ...] = ()
    if size := count_places(lists, naming):
        places = name_places(naming, size, where)
        lists = {split: to_places(some, places) for split, some in lists.items()}
    values = {split: some.values for split, some in lists.items()}
    found = read_labels(values, naming, data.fold_labels, data.drop_labels or ())
    indices, arrays = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for split, some in lists.items():
        matrix, codes = RowArray(np.uint8, (len(found.names),)), RowArray(np.int64)
        for ones, wrong in _rows_of_lists(
            some, found.indices[split], len(found.names), data.allow_empty_labels or size > 0
        ):
            matrix.append(ones)
            codes.append(wrong)
        arrays[split], indices[split] = matrix.done(), codes.done()
    faults = {
        EMPTY: Fault("an empty list of labels", allowed_by="data.allow_empty_labels"),
        NO_WORD: Fault("a null or blank in the list of labels"),
    }
    notes = [note_places(places, where)] if places else []
    return found._replace(
        indices=indices, arrays=arrays, faults=faults, notes=[*found.notes, *notes]
    )


def _rows_of_lists(
    lists: Lists, of_values: np.ndarray, classes: int, allow_empty: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(0 or 1, uint8 (rows, classes); 0 or what is wrong, int64 (rows,)) for some rows at a time.

    `of_values`: the class of each value, or what is wrong with it.
    """
    first = 0
    for rows in blocks(len(lists.counts)):
        counts = lists.counts[rows]
        values = of_values[first : first + counts.sum()]
        first += len(values)
        parents, good = np.repeat(np.arange(len(counts)), counts), values >= 0
        ones = np.zeros((len(counts), classes), np.uint8)
        ones[parents[good], values[good]] = 1
        codes = np.zeros(len(counts), np.int64)
        np.minimum.at(codes, parents, np.where(values == MISSING, NO_WORD, values))
        codes[parents[values == DROPPED]] = DROPPED
        if not allow_empty:
            codes[counts == 0] = EMPTY
        codes[lists.missing[rows]] = MISSING
        yield ones, codes


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
    known = YES_OR_NO | NO_LABEL
    for split, rows in splits.items():
        matrix, wrong = RowArray(np.uint8, (len(names),)), RowArray(np.int64)
        for some in chain.from_iterable(part.blocks() for part in rows.parts):
            pieces = (label_indices(some, x, known, NOT_BINARY - k) for k, x in enumerate(names))
            codes = np.column_stack([np.concatenate([*piece]) for piece in pieces])
            matrix.append(codes == 1)
            # Only a row that has no 0 or 1 at all is one without labels
            partly = (codes < 0) & (codes >= UNLABELED) & (codes >= 0).any(axis=1, keepdims=True)
            codes = np.where(partly, NOT_BINARY - np.arange(len(names)), codes)
            wrong.append(np.minimum(codes.min(axis=1), 0))
        arrays[split], indices[split] = matrix.done(), wrong.done()
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
    counts, missing = RowArray(np.int64), RowArray(bool)
    for part in rows.parts:
        flat, rows_of = list[pa.Array](), RowArray(np.int64)
        first = 0
        kind, chunks = _lists(part, column, delimiter)
        for chunk in chunks:
            n, values = _lengths(chunk), chunk.flatten()
            of = np.repeat(np.arange(len(n)), n)
            if delimiter:
                words = pc.utf8_trim_whitespace(values)
                there = pc.fill_null(pc.not_equal(words, ""), False)
                values, of = words.filter(there), of[there.to_numpy(zero_copy_only=False)]
                n = np.bincount(of, minlength=len(n))
            flat.append(values)
            rows_of.append(first + of)
            counts.append(n)
            missing.append(np.asarray(pc.is_null(chunk)))
            first += len(n)
        table = pa.table({column: pa.chunked_array(flat, kind)})
        parts.append(replace(part, table=table, lists=(part, rows_of.done()), first=0))
    return Lists(Rows(parts, rows.columns), counts.done(), missing.done())


def _lengths(lists: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0)).astype(np.int64)


def _lists(
    part: Part, column: str, delimiter: str | None
) -> tuple[pa.DataType, Iterator[pa.Array]]:
    """The type of the values in the lists of a column, and the lists, chunk by chunk.

    Raises UserError for a column that has none.
    """
    values = part.table.column(column)
    text = pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    if pa.types.is_null(values.type):
        return pa.string(), (pa.nulls(len(x), pa.list_(pa.string())) for x in values.chunks)
    error = ""
    if delimiter and is_list(values.type):
        error = "holds lists: leave out data.label_delimiter, which is for text"
    elif delimiter and not text:
        error = f"contains {values.type}, neither lists nor text"
    elif not is_list(values.type) and not text and len(values):
        error = list_error(values[0].as_py(), None)
    if error:
        raise UserError(f"{part.name}: column {column!r}: {error}")
    if is_list(values.type):
        return values.type.value_type, iter(values.chunks)
    if not text:  # no rows
        return pa.string(), iter(())
    if delimiter and not pc.any(pc.match_substring_regex(values, BRACKETS)).as_py():
        return values.type, (pc.split_pattern(chunk, delimiter) for chunk in values.chunks)
    return pa.string(), _written_lists(part, column, delimiter)


def _written_lists(part: Part, column: str, delimiter: str | None) -> Iterator[pa.Array]:
    """The lists that texts are. Raises UserError for other texts, unless there is a delimiter."""
    for some in part.blocks():
        for chunk in some.table.column(column).chunks:
            distinct = pc.drop_null(pc.unique(chunk))
            lists = list[list[str | None] | None]()
            for word in distinct.to_pylist():
                found = written_list(word)
                if found is None and delimiter:
                    found = word.split(delimiter)
                if found is None and word.strip():
                    row = some.number(pc.index(some.table.column(column), word).as_py())
                    error = list_error(word, None)
                    raise UserError(f"{part.name}, {row}: column {column!r}: {error}")
                lists.append(found and [normalize_label(label) for label in found])
            places = pc.index_in(chunk, value_set=distinct)
            yield pa.array(lists, pa.list_(pa.string())).take(places)


def _check_delimiter(splits: dict[str, Rows], lists: dict[str, Lists]) -> None:
    """Raises UserError for a delimiter between no two labels of any row."""
    columns = next(iter(splits.values())).columns
    if columns.delimiter and not any((some.counts > 1).any() for some in lists.values()):
        parts = [part for rows in splits.values() for part in rows.parts if part.table.num_rows]
        first = parts[0].table.column(columns.label)[:3].to_pylist() if parts else []
        where = f"data.label_delimiter = {to_toml_value(columns.delimiter)}"
        found = f"it occurs in no label of {name_files(parts)}, column {columns.label!r}"
        raise UserError(f"{where}: {found}, such as {', '.join(map(shorten, first))}")
