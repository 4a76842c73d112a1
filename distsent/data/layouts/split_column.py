"""Files whose rows are of several splits: a column says which."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from distsent.data import row_cache
from distsent.data.files import READER, RowSource, TableFile
from distsent.data.layouts.split_names import UNLABELED, split_called, split_in, words
from distsent.data.rows import SPLITS
from distsent.errors import UserError
from distsent.formats.column_choice import as_text
from distsent.formats.column_errors import list_names
from distsent.formats.file import Where
from distsent.formats.open import open_file
from distsent.formats.records import counted, first_few
from distsent.job.keys import to_toml_value

# Words in the names of such columns
NAMES = {
    *("split", "splits", "partition", "set", "subset", "usage", "fold", "phase", "part", "type"),
    *("group", "stage", "dataset", "data", "mode", "purpose", "use"),
}
MOST = 100  # values of a column that may say it


def check_split_column(sources: Sequence[RowSource]) -> None:
    """Raises UserError for a column of training files that beyond doubt says the split of rows."""
    for source in sources:
        if not isinstance(source, TableFile) or source.part_name:
            continue
        for column in source.columns():
            if NAMES.isdisjoint(words(column)) or source.columns().count(column) > 1:
                continue
            counts = count_values(source, column, _says_a_split)
            splits = {split for value in counts if (split := split_called(value))}
            if {"train"} < splits:
                shown = ", ".join(f"{value}: {n:,}" for value, n in counts.items())
                keys = {"data.split_column": column}, {"data.pool_splits": True}
                fix = f"data.split_column = {to_toml_value(column)} uses it"
                raise UserError(
                    f"{source.name}: column {column!r} says which split a row is of ({shown}): "
                    f"{fix}, data.pool_splits = true splits all rows again",
                    fix=keys[0],
                    others=[{**keys[1], "data.validation_fraction": 0.1}],
                )


def divide(
    found: Mapping[str, Sequence[RowSource]], column: str, notes: list[str]
) -> dict[str, list[RowSource]]:
    """The splits in the files that have this column, and those of other files.

    Adds to `notes` the values that are no split. Raises UserError if no file has the column.
    """
    out: dict[str, list[RowSource]] = {}
    every = [(split, one) for split, some in found.items() for one in some]
    divided = [one for _, one in every if isinstance(one, TableFile) and column in one.columns()]
    key = f"data.split_column = {to_toml_value(column)}"
    if not divided and every:
        there = list_names(every[0][1].columns())
        raise UserError(f"{key}: no such column in {every[0][1].name}; there are {there}")
    for split, one in every:
        if one not in divided or not isinstance(one, TableFile):
            out.setdefault(split, []).append(one)
            continue
        counts = count_values(one, column, _is_any)
        said = {value: split_called(value) or split_in(value) for value in counts}
        if not any(said.values()):
            raise UserError(f"{key}: {one.name}: no value is a split ({first_few([*counts])})")
        for name in SPLITS:
            if values := frozenset(value for value, known in said.items() if known == name):
                some = TableFile(
                    one.path, one.name, one.reading, one.label, where=Where(column, values)
                )
                out.setdefault(name, []).append(some)
        if others := [value for value, known in said.items() if not known]:
            rows = counted(sum(counts[value] for value in others), "row")
            what = f"with {first_few([*map(repr, others)])} in column {column!r}"
            notes.append(f"{one.name}: not read: {rows} {what}")
    return out


def count_values(source: TableFile, column: str, fit: Callable[[str], object]) -> dict[str, int]:
    """How often each value of a column occurs; none if one does not `fit`, or there are too many.

    They are kept like rows: a run that resumes does not read the file again.
    """
    content = (READER, fit.__name__, source.digest, source.reading, column)
    key = hashlib.sha256(repr(content).encode()).hexdigest()[:32]

    def read() -> tuple[pa.Schema, list[pa.RecordBatch], Any]:
        counts: Counter[str] = Counter()
        with open_file(source.file) as reader:
            for _, values, _ in reader.records([column]):
                value = values.get(column)
                word = "" if value is None else as_text(value)
                if word not in counts and (len(counts) == MOST or not fit(word)):
                    return pa.schema([]), [], {}
                counts[word] += 1
        return pa.schema([]), [], dict(counts)

    return dict(row_cache.load_or_write(key, source.name, read).about)


def _says_a_split(value: str) -> bool:
    return bool(split_called(value)) or value.lower() in UNLABELED


def _is_any(value: str) -> bool:
    return True
