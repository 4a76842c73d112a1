"""From the values of a label column (numbers, words, booleans) to class indices and names."""

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distsent.data.rows import Rows
from distsent.errors import UserError
from distsent.formats.records import first_few

# In place of a class index: null, the number -1, a value that is not a class
MISSING, UNLABELED, UNKNOWN = -1, -2, -3
MAX_CLASSES = 1000
_INTEGER, _NUMBER = re.compile(r"-?(0|[1-9]\d*)"), re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


class Labels(NamedTuple):
    """Classes of all rows."""

    names: tuple[str, ...]  # in index order
    indices: dict[str, np.ndarray]  # per split, int64 (n,), negative where a row has none


def read_labels(
    splits: dict[str, Rows], wanted: Sequence[str] | None, known: Sequence[str] | None
) -> Labels:
    """The labels of all rows. Raises UserError where the names do not match the values.

    `wanted`: class names of the job; `known`: those of a well-known dataset with numbers.
    """
    parts = [part for rows in splits.values() for part in rows.parts]
    # A file without rows need not have class names
    parts = [part for part in parts if part.table.num_rows] or parts
    column = next(iter(splits.values())).columns.label
    by_names = {part.label_names: part.name for part in parts}
    if len(by_names) > 1:
        found = (f"{file}: {', '.join(names or ['none'])}" for names, file in by_names.items())
        raise UserError(f"the files name their classes differently ({'; '.join(found)})")
    if own := next(iter(by_names)):
        names = tuple(wanted or own)
        # The same names in another order, or all different
        if set(own) != set(names) and (len(own) != len(names) or set(own) & set(names)):
            raise UserError(f"data.labels = {', '.join(names)}: the classes are {', '.join(own)}")
        index = {str(i): names.index(name) if name in names else i for i, name in enumerate(own)}
    else:
        values = {
            normalize_label(value)
            for part in parts
            for value in _unique_values(part.table.column(column), part.name, column)
        }
        present = {value for value in values if value}
        names, index = _index_values(present, tuple(wanted or ()), tuple(known or ()), column)
    return Labels(names, {split: _indices(rows, index) for split, rows in splits.items()})


def normalize_label(value: Any) -> str | None:
    """A label as text: 1, 1.0 and "1" are the same class. None and "" are None."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = value if isinstance(value, str) else json.dumps(value)
    return word[:-2] if re.fullmatch(r"-?\d+\.0", word) else word


def _index_values(
    values: set[str], wanted: tuple[str, ...], known: tuple[str, ...], column: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names in index order, and the index of each value that has one."""
    integers = all(map(_INTEGER.fullmatch, values))
    if not integers and all(map(_NUMBER.fullmatch, values)):
        odd = f"numbers such as {min(v for v in values if not _INTEGER.fullmatch(v))}"
        raise UserError(f"column {column!r} contains {odd}: classes are integers or words")
    some = first_few([*map(repr, sorted(values)[:6])])
    if not values.isdisjoint(wanted):
        names = wanted
    elif integers and (wanted or known):
        return wanted or known, {str(i): i for i in range(len(wanted or known))}
    elif wanted:
        lack = f"data.labels = {', '.join(wanted)}: none of them occurs"
        raise UserError(f"{lack} in column {column!r}, which contains {some}")
    else:
        names = tuple(sorted(values - {"-1"}, key=int) if integers else sorted(values))
    if len(names) > MAX_CLASSES:
        found = f"{len(names):,} different values ({some})"
        raise UserError(f"column {column!r} contains {found}: are they classes?")
    return names, {name: i for i, name in enumerate(names)}


def _unique_values(column: pa.ChunkedArray, file: str, name: str) -> list:
    """The values of a column of numbers, words or booleans."""
    kind, t = column.type, pa.types
    kind = kind.value_type if t.is_dictionary(kind) else kind
    kinds = (t.is_integer, t.is_floating, t.is_boolean, t.is_string, t.is_large_string, t.is_null)
    if not any(test(kind) for test in kinds):
        raise UserError(f"{file}: column {name!r} contains {kind}, neither numbers nor words")
    return pc.unique(column).to_pylist()


def _indices(rows: Rows, index: dict[str, int]) -> np.ndarray:
    """Class indices of all rows, int64 (n,)."""
    out = [np.empty(0, dtype=np.int64)]
    indices = {"-1": UNLABELED, **index, "": MISSING}
    for part in rows.parts:
        column = part.table.column(rows.columns.label)
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        values = pc.unique(column)
        if len(values):
            codes = [indices.get(normalize_label(v) or "", UNKNOWN) for v in values.to_pylist()]
            places = pc.index_in(column, value_set=values).to_numpy()
            out.append(np.array(codes, dtype=np.int64)[places])
    return np.concatenate(out)
