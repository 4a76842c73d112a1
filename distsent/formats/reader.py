"""What reads a file: records, one for each of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from distsent.errors import UserError
from distsent.formats.column_choice import as_text
from distsent.formats.file import File
from distsent.formats.read_as import ReadAs
from distsent.formats.records import readable
from distsent.formats.streams import open_text


class Reader(AbstractContextManager["Reader", None]):
    """The rows of one file but header and blank lines. Raises UserError if it cannot be read.

    A bad row is a record with an error. If `strict`, it raises UserError with file and row instead.
    What makes all rows doubtful is a UserError of the constructor, strict or not.
    """

    format = ""  # as data.format names it
    newline: str | None = None  # of a text, as for open()
    columns: list[str] | None = None  # None: there are no rows, or all are bare texts
    rows: int | None = None  # where a pass over the file has counted them

    def __init__(self, file: File) -> None:
        self.file, self.path, self.name, self.options = file, file.path, file.name, file.options
        self.strict, self.recorded, self.part = file.strict, file.recorded, file.part
        self.resolved: dict[str, Any] = {}  # keys of [data] that say how this file is read
        self.notes: list[str] = []
        with readable(file.name):
            self._open()

    def rewritten(self, each: str, setup: str = "") -> str:
        """The command that writes other rows, as JSON lines; empty where none is known.

        `each`: what it makes of the row x, a list in Python that may use what `setup` defines.
        """
        return ""

    def in_row(self, column: str) -> str:
        """The value of a column in the row x of `rewritten`, in Python."""
        return f"x[{column!r}]"

    @property
    def read_as(self) -> ReadAs:
        """How the file is read."""
        return ReadAs(self.format, self.rows, dict(self.resolved), tuple(self.notes))

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def records(self, columns: Sequence[str | int]) -> Iterator[tuple[int, Any, str]]:
        """(row from 1, values by column or a bare str, error), once. Reads at least `columns`.

        Delimited texts and spreadsheets take positions, too: for columns whose names recur.
        """
        where = self.file.where
        wanted = [*columns, where.column] if where else columns
        with self, readable(self.name):
            for row, (values, error) in enumerate(self._read(wanted), 1):
                if where and not error and as_text(values.get(where.column)) not in where.values:
                    continue
                if error and self.strict:
                    fix = getattr(error, "fix", None)
                    raise UserError(f"{self.name}, row {row}: {error}", fix=fix)
                yield row, values, error

    def done(self) -> float:
        """The share of the file that was read."""
        return 1.0 if self._file.closed else self._file.share()

    def _open(self) -> None:
        """Open `_file`; set `columns`, and what `read_as` says. Here: a text."""
        self._file: Any = open_text(self.path, self.name, self.options, self.newline)
        self.resolved.update(self._file.options)
        self.notes.extend(self._file.notes)

    def _read(self, columns: Sequence[Any]) -> Iterator[tuple[Any, str]]:
        """(values, error) of each row."""
        raise NotImplementedError
