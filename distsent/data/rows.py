"""The rows of a dataset as its source has them, numbered from 0 across files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa

from distsent.data.row_arrays import blocks
from distsent.formats.columnar import ROW
from distsent.formats.read_as import ReadAs
from distsent.job.schema import DataSection

SPLITS = ("train", "validation", "test")
FILE = "file"  # column with the file name of each row, where each text is a file


@dataclass(frozen=True)
class Columns:
    """The columns that a job reads. Tables have these names, whatever the files call them."""

    text: str
    pair: str | None
    label: str
    positions: tuple[tuple[str, int], ...] = ()  # (column, its position), counted from 0
    task: str = "single_label"
    labels: tuple[str, ...] = ()  # one for each class or number, in place of `label`
    delimiter: str | None = None  # between the labels of a cell

    def __repr__(self) -> str:
        # Names stores and cached rows. What came later shows where it is used: old ones stay valid
        named = [(item.name, getattr(self, item.name), item.default) for item in fields(self)]
        old = ("text", "pair", "label", "positions")
        shown = (f"{n}={x!r}" for n, x, default in named if n in old or x != default)
        return f"Columns({', '.join(shown)})"

    @classmethod
    def of(cls, data: DataSection) -> Columns:
        """Those of a job."""
        names: dict[str, str | None] = {}
        positions: list[tuple[str, int]] = []
        for role in ("text", "pair", "label"):
            names[role] = getattr(data, f"{role}_column")
            if (position := getattr(data, f"{role}_position")) is not None:
                names[role] = f"position {position}"
                positions.append((f"position {position}", position))
        of_task = data.task, data.label_columns or (), data.label_delimiter
        return cls(*names.values(), tuple(positions), *of_task)  # type: ignore

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.text,) if self.pair is None else (self.text, self.pair)

    @property
    def of_labels(self) -> tuple[str, ...]:
        return self.labels or (self.label,)

    @property
    def has_lists(self) -> bool:
        """Whether the label of a row is a list, or the text of one."""
        return self.task == "multi_label" and not self.labels

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.texts, *self.of_labels)

    def in_file(self, found: Sequence[str]) -> dict[str, str]:
        """What a file with the columns `found` calls the columns that it has."""
        at = dict(self.positions)
        places = {name: at[name] for name in self.all if name in at and at[name] < len(found)}
        names = {name: name for name in self.all if name not in at and name in found}
        return {**names, **{name: found[place] for name, place in places.items()}}

    def keys_in(self, found: Sequence[str]) -> dict[str, str | int]:
        """As `in_file`, with the positions of columns whose names others have, too."""
        at = dict(self.positions)
        names = self.in_file(found)
        return {c: at[c] if c in at and found.count(n) > 1 else n for c, n in names.items()}


@dataclass(frozen=True)
class Part:
    """The rows of one file. `table` is memory-mapped: it takes address space, not memory."""

    name: str
    table: pa.Table
    label_names: tuple[str, ...] | None = None  # where the file itself has them
    read_as: ReadAs | None = None  # how the file was read, if it is a file
    lists: tuple[Part, np.ndarray] | None = None  # where rows are values of lists: of which rows
    first: int = 0  # rows of the file before those of the table

    @property
    def is_counted(self) -> bool:
        """Whether the rows of the table are those of the file, one after another."""
        return not self.lists and {FILE, ROW}.isdisjoint(self.table.column_names)

    def place(self, row: int) -> tuple[str, int | None]:
        """(file, number in it from 1) of a row of the table; None for a text that is a file."""
        if self.lists:
            part, rows = self.lists
            return part.place(int(rows[self.first + row]))
        if FILE in self.table.column_names:
            return str(self.table.column(FILE)[row].as_py()), None
        if ROW in self.table.column_names:
            return self.name, int(self.table.column(ROW)[row].as_py())
        return self.name, self.first + row + 1

    def number(self, row: int) -> str:
        """The user's name of a row of the table."""
        file, number = self.place(row)
        return file if number is None else f"row {number}"

    def blocks(self) -> Iterator[Part]:
        """The same rows, some at a time."""
        for some in blocks(self.table.num_rows):
            rows = self.table.slice(some.start, some.stop - some.start)
            yield replace(self, table=rows, first=self.first + some.start)


class Rows:
    """The rows of some parts, concatenated."""

    def __init__(self, parts: Sequence[Part], columns: Columns) -> None:
        self.parts, self.columns = tuple(parts), columns
        self.starts = np.cumsum([0, *(part.table.num_rows for part in parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, column: str, rows: np.ndarray) -> list[str]:
        """The values of a column at `rows`, int (n,), in their order."""
        rows, order = np.unique(rows, return_inverse=True)
        out: list[str] = []
        which = np.searchsorted(self.starts, rows, side="right") - 1
        for index in np.unique(which):
            here = rows[which == index] - self.starts[index]
            out += take_values(self.parts[index].table.column(column), here)
        return [out[place] for place in order]

    def place(self, row: int) -> tuple[str, int | None]:
        """(file, number in it from 1) of `row`; None for a text that is a file."""
        part, row = self._in_part(row)
        return part.place(row)

    def number(self, row: int) -> str:
        """The user's name of `row` in its file."""
        part, row = self._in_part(row)
        return part.number(row)

    def origin(self, row: int) -> str:
        """File and row, counted from 1: "train.csv, row 17"."""
        file, number = self.place(row)
        return file if number is None else f"{file}, row {number}"

    def _in_part(self, row: int) -> tuple[Part, int]:
        """The part that contains `row`, and the number of the row in it."""
        index = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[index], row - int(self.starts[index])


def take_values(column: pa.ChunkedArray, rows: np.ndarray) -> list:
    """Values at `rows`, ascending and unique. `take` on all chunks may copy the column."""
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
        index = int(which[here[0]])
        places = pa.array(rows[here] - first - bounds[index])
        out += window.chunk(index).take(places).to_pylist()
    return out


def count_rows(n: int) -> str:
    """A number of rows, for a message."""
    return f"{n:,} row" if n == 1 else f"{n:,} rows"
