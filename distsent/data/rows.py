"""Rows of a corpus as they come, behind one row number, wherever they lie: files, a hub corpus, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa

FILE = "file"  # the column that holds each row's file name, where every text is a file of its own


@dataclass(frozen=True)
class Columns:
    """The columns that a job reads."""

    text: str
    pair: str | None
    label: str

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.texts, self.label)


class Source(Protocol):
    """A place that rows come from. Nothing is read before `parts`."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, validation and test that there are."""
        ...

    def fingerprint(self) -> str:
        """Hash of the content, the same wherever it lies."""
        ...

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        """(file, its columns) for each file of the split."""
        ...

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        """The split's rows, a part for each file; `drop`: values that are no text become null instead of an error."""
        ...


@dataclass(frozen=True)
class Part:
    """The rows of one file. `table` is memory-mapped: it costs address space, not memory."""

    name: str
    table: pa.Table
    label_names: tuple[str, ...] | None = None  # where the file itself carries them


class Rows:
    """The rows of some parts, end to end, numbered from 0."""

    def __init__(self, parts: Sequence[Part], columns: Columns) -> None:
        self.parts, self.columns = tuple(parts), columns
        self.starts = np.cumsum([0, *(part.table.num_rows for part in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def texts(self, rows: np.ndarray) -> list[str]:
        """The texts of `rows`, int (n,), in their order."""
        return self._read(self.columns.text, rows)

    def pairs(self, rows: np.ndarray) -> list[str] | None:
        """The second texts, where there are pairs."""
        return self._read(self.columns.pair, rows) if self.columns.pair else None

    def place(self, row: int) -> tuple[Part, str]:
        """The part that holds `row`, and what the user calls the row there."""
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        part, row = self.parts[index], row - int(self.starts[index])
        return part, part.table.column(FILE)[
            row
        ].as_py() if FILE in part.table.column_names else f"row {row + 1}"

    def origin(self, row: int) -> str:
        """File and row as the user counts them, from 1: "train.csv, row 17"."""
        part, name = self.place(row)
        return name if FILE in part.table.column_names else f"{part.name}, {name}"

    def batches(self, size: int = 10_000) -> Iterator[tuple[int, pa.Table]]:
        """(first row, rows) through everything, at most `size` rows at once."""
        for part, start in zip(self.parts, self.starts, strict=False):
            for offset in range(0, part.table.num_rows, size):
                yield int(start) + offset, part.table.slice(offset, size)

    def _read(self, column: str, rows: np.ndarray) -> list[str]:
        rows, order = np.unique(rows, return_inverse=True)
        out: list[str] = []
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for index in np.unique(which):
            here = rows[which == index] - self.starts[index]
            out += gather(self.parts[index].table.column(column), here)
        return [out[place] for place in order]


def gather(column: pa.ChunkedArray, rows: np.ndarray) -> list:
    """Values at `rows` (ascending, each once) as Python objects. Chunk by chunk: `take` on a chunked column may copy all of it."""
    if len(rows) == 0:
        return []
    first, last = int(rows[0]), int(rows[-1])
    window = column.slice(first, last - first + 1)
    if window.length() == len(rows):
        return window.to_pylist()
    out: list = []
    bounds = np.cumsum([0, *(len(chunk) for chunk in window.chunks)])
    which = np.searchsorted(bounds, rows - first, side="right") - 1
    cuts = np.flatnonzero(np.diff(which)) + 1
    for here in np.split(np.arange(len(rows)), cuts):
        index = which[here[0]]
        out += (
            window.chunk(int(index)).take(pa.array(rows[here] - first - bounds[index])).to_pylist()
        )
    return out
