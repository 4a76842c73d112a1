"""From what a label column holds - numbers, words, truth values - to class indices and class names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distsent.data.files import normalize_label
from distsent.data.rows import Rows
from distsent.errors import UserError

MISSING, UNLABELLED, UNKNOWN = (
    -1,
    -2,
    -3,
)  # in place of an index: null, the number -1, a value that is no class
MOST_CLASSES = 1000
_WHOLE, _NUMBER = re.compile(r"-?(0|[1-9]\d*)"), re.compile(r"-?\d+(\.\d+)?(e-?\d+)?")


@dataclass(frozen=True)
class Labels:
    """`names` in index order; for each split its class indices, int64 (n,), negative where a row has none."""

    names: tuple[str, ...]
    of: dict[str, np.ndarray]


def read(
    splits: dict[str, Rows], wanted: Sequence[str] | None, known: Sequence[str] | None
) -> Labels:
    """The labels of all rows. `wanted`: the job's names; `known`: those of a well-known corpus that holds numbers."""
    parts = [part for rows in splits.values() for part in rows.parts]
    parts = [
        part for part in parts if part.table.num_rows
    ] or parts  # no rows, no word on their names
    column = next(iter(splits.values())).columns.label
    carried = {part.label_names: part.name for part in parts}
    if len(carried) > 1:
        told = "; ".join(
            f"{file}: {', '.join(names) if names else 'none'}" for names, file in carried.items()
        )
        raise UserError(f"the files name their classes differently ({told})")
    if own := next(iter(carried)):
        names = _renamed(own, tuple(wanted or own))
        words = {str(i): names.index(name) if name in names else i for i, name in enumerate(own)}
    else:
        values = {
            normalize_label(value)
            for part in parts
            for value in _values(part.table.column(column), part.name, column)
        }
        names, words = _found(
            {word for word in values if word}, tuple(wanted or ()), tuple(known or ()), column
        )
    return Labels(names, {split: _indices(rows, words) for split, rows in splits.items()})


def _renamed(own: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The job's names for classes that have names: the same ones in another order, or others for all of them."""
    if set(own) == set(wanted) or (len(own) == len(wanted) and set(own).isdisjoint(wanted)):
        return wanted
    raise UserError(
        f"data.labels = {', '.join(wanted)}: the classes of this corpus are {', '.join(own)}"
    )


def _found(
    values: set[str], wanted: tuple[str, ...], known: tuple[str, ...], column: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names in index order, and the index of each value that has one."""
    whole = all(map(_WHOLE.fullmatch, values))
    if not whole and all(map(_NUMBER.fullmatch, values)):
        odd = min(value for value in values if not _WHOLE.fullmatch(value))
        raise UserError(
            f"column {column!r} holds numbers such as {odd}: classes are whole numbers or words"
        )
    if not values.isdisjoint(wanted):
        names = wanted
    elif whole and (wanted or known):
        return wanted or known, {str(i): i for i in range(len(wanted or known))}
    elif wanted:
        told = f"data.labels = {', '.join(wanted)}"
        raise UserError(
            f"{told}: none of them stands in column {column!r}, which holds {_some(values)}"
        )
    else:
        names = tuple(sorted(values - {"-1"}, key=int) if whole else sorted(values))
    if len(names) > MOST_CLASSES:
        raise UserError(
            f"column {column!r} holds {len(names):,} different values ({_some(values)}): are they classes?"
        )
    return names, {name: i for i, name in enumerate(names)}


def _values(column: pa.ChunkedArray, file: str, name: str) -> list:
    """The different values of a column; it must be one of numbers, words or truth values."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    t = pa.types
    kinds = (t.is_integer, t.is_floating, t.is_boolean, t.is_string, t.is_large_string, t.is_null)
    if not any(test(kind) for test in kinds):
        raise UserError(
            f"{file}: column {name!r} holds {kind}, which is neither a number nor a word"
        )
    return pc.unique(column).to_pylist()


def _indices(rows: Rows, words: dict[str, int]) -> np.ndarray:
    """Class indices of all rows, int64 (n,)."""
    out = [np.empty(0, dtype=np.int64)]
    for part in rows.parts:
        column = part.table.column(rows.columns.label)
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        values = pc.unique(column)
        codes = [_code(normalize_label(value), words) for value in values.to_pylist()]
        if codes:
            out.append(
                np.array(codes, dtype=np.int64)[pc.index_in(column, value_set=values).to_numpy()]
            )
    return np.concatenate(out)


def _code(word: str | None, words: dict[str, int]) -> int:
    if word is None:
        return MISSING
    return words.get(word, UNLABELLED if word == "-1" else UNKNOWN)


def _some(values: set[str]) -> str:
    some = sorted(values)[:5]
    return ", ".join(map(repr, some)) + (", ..." if len(values) > 5 else "")
