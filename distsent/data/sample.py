"""The columns of a file or table with some of their values: what tells which column is which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import pyarrow as pa

from distsent.errors import UserError
from distsent.formats.column_choice import SAMPLE, Column
from distsent.formats.file import File
from distsent.formats.open import open_file

IN_LIST = re.compile(r"\.0(\.|$)")  # in names of columns: the value of a list of one


def sample_columns(file: File, most: int | None = SAMPLE) -> list[Column]:
    """The columns of a file with the values of its first rows; of those before a bad row."""
    reader = open_file(file)
    if lists := any(map(IN_LIST.search, reader.columns or ())):
        # A row with several values in a list of one column is none to stop at
        reader.__exit__()
        reader = open_file(replace(file, strict=False))
    with reader:
        columns = [Column(name) for name in reader.columns or ()]
        records = islice(_until_bad(reader.records([c.name for c in columns])), most)
        while some := [*islice(records, SAMPLE)]:
            good = [values for _, values, error in some if lists or not error]
            if reader.columns is None and any(isinstance(values, str) for values in good):
                columns = columns or [Column("text")]
                columns[0].add(good)
                continue
            good = [values for values in good if isinstance(values, dict)]
            for column in columns:
                column.add([values.get(column.name) for values in good])
    return columns


def _until_bad(records: Iterable[Any]) -> Iterator[Any]:
    with suppress(UserError):
        yield from records


def table_columns(table: pa.Table) -> list[Column]:
    """The columns of a table with their values."""
    columns = [*map(Column, table.column_names)]
    for batch in table.to_batches(SAMPLE):
        for column, values in zip(columns, batch.columns, strict=True):
            column.add(values.to_pylist())
    return columns
