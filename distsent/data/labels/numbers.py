"""The numbers that a regression learns: from the values of its columns to float64."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distsent.data.labels.classes import MISSING, Fault, Labels, name_files
from distsent.data.labels.names import Naming
from distsent.data.labels.values import distinct_words, quote
from distsent.data.row_arrays import RowArray
from distsent.data.rows import Part, Rows
from distsent.errors import UserError
from distsent.job.keys import to_toml_value

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+", re.ASCII)
NOT_A_NUMBER, COMMA = -100, -1000  # of the first column; one less for each further column


def read_numbers(splits: dict[str, Rows], naming: Naming) -> Labels:
    """The numbers of all rows, in the order of the columns.

    Raises UserError for classes, which have no numbers unless data.labels gives them.
    """
    columns = next(iter(splits.values())).columns.of_labels
    names, columns = _order(columns, naming)
    table, trained = _table(naming), naming.trained
    parts = [part for rows in splits.values() for part in rows.parts if part.table.num_rows]
    where = f"{name_files(parts)}: column {' and '.join(map(repr, columns))}"
    indices, arrays = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for split, rows in splits.items():
        numbers, codes = RowArray(np.float64, (len(columns),)), RowArray(np.int64)
        for some in chain.from_iterable(part.blocks() for part in rows.parts):
            found = [_numbers(some, column, table, trained) for column in columns]
            numbers.append(np.column_stack([values for values, _ in found]))
            wrong = np.column_stack([faults for _, faults in found])
            wrong -= (wrong < MISSING) * np.arange(len(columns))
            codes.append(wrong.min(axis=1))
        arrays[split], indices[split] = numbers.done(), codes.done()
    values, faults = dict(naming.table or {}), _faults(columns, table)
    return Labels(names, indices, values, [], naming, where, arrays, faults)


def to_number(word: str) -> float:
    """The number that a word is; NaN if it is none: 1,5 and nan and 1_000 are not."""
    word = word.strip()
    return float(word) if NUMBER.fullmatch(word) else math.nan


def _order(columns: tuple[str, ...], naming: Naming) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the numbers, and their columns: in the order of a trained model."""
    if not (naming.trained and naming.names):
        return columns, columns
    if {*columns} == {*naming.names}:
        return naming.names, naming.names
    if len(columns) == len(naming.names) == 1:
        return naming.names, columns
    learned = f"the model has learned {quote(naming.names, marks=False)}"
    raise UserError(f"data.label_columns = {to_toml_value(columns)}: {learned}")


def _table(naming: Naming) -> dict[str, float]:
    """The number of each value that data.labels names."""
    table = {value: to_number(name) for value, name in (naming.table or {}).items()}
    if odd := [value for value, number in table.items() if not math.isfinite(number)]:
        name = (naming.table or {})[odd[0]]
        raise UserError(f"data.labels: {odd[0]!r} is {name!r}, which is not a number")
    return table


def _faults(columns: tuple[str, ...], table: Mapping[str, float]) -> dict[int, Fault]:
    named = f" that data.labels names ({quote(table)})" if table else ""
    fix = "; write a decimal point, and no mark between thousands"
    out = dict[int, Fault]()
    for k, column in enumerate(columns):
        what = f"no value{named}" if table else "no finite number"
        out[NOT_A_NUMBER - k] = Fault(f"{what} in column {column!r}", column)
        out[COMMA - k] = Fault(f"a comma in column {column!r}{fix}", column)
    return out


def _numbers(
    part: Part, column: str, table: Mapping[str, float], trained: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a column, float64 (n,), and 0 or what is wrong with them, int64 (n,).

    `trained`: the table is that of a training, and other files may have the numbers themselves.
    """
    values, t = part.table.column(column), pa.types
    names = part.label_names
    if names and not table:
        classes = f"column {column!r} holds the classes {quote(names)}"
        pairs = ", ".join(f"{to_toml_value({name: i})[2:-2]}" for i, name in enumerate(names[:3]))
        more = ", ..." if len(names) > 3 else ""
        fix = f"data.labels gives each its number, e.g. {{ {pairs}{more} }}"
        raise UserError(f"{part.name}: {classes}; {fix}")
    if not table and (t.is_floating(values.type) or t.is_integer(values.type)):
        numbers = np.asarray(pc.fill_null(pc.cast(values, pa.float64(), safe=False), math.nan))
        infinite = np.where(np.isinf(numbers), NOT_A_NUMBER, 0)
        return numbers, np.where(np.isnan(numbers), MISSING, infinite)
    words, places = distinct_words(part, column, number=True)
    if names:
        named = dict(enumerate(names))
        words = [named.get(int(word), word) if word.isdigit() else word for word in words]
    known = [table.get(word, math.nan) if table else to_number(word) for word in words]
    if table and trained:
        known = [table[word] if word in table else to_number(word) for word in words]
    wrong = [_fault(word, number) for word, number in zip(words, known, strict=True)]
    return np.array(known, np.float64)[places], np.array(wrong, np.int64)[places]


def _fault(word: str, number: float) -> int:
    if not word:
        return MISSING
    if math.isfinite(number):
        return 0
    return COMMA if DECIMAL_COMMA.fullmatch(word.strip()) else NOT_A_NUMBER
