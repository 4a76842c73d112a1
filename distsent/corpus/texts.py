"""Texts to be labelled, out of a file of any size: txt, csv, tsv, jsonl, json, parquet.

A row that cannot be read is a row with a reason in place of its text: one bad line does not cost the other million.
"""

from __future__ import annotations

import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from distsent.errors import UserError

FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
PARQUET_ROWS = 4096  # read at once
SNIFFED = 1 << 16  # bytes


class Text(NamedTuple):
    """A row: its number as the user counts, from 1, and its text - or, where `why` says something, no text."""

    row: int
    text: str
    pair: str | None = None
    why: str = ""


class TextFile:
    """The texts of a file, in its order. Iterate over it; `done` says how much of the file is behind."""

    def __init__(self, path: str | Path, column: str = "text", pair_column: str | None = None) -> None:
        self.path, self.columns = Path(path), [column, *([pair_column] if pair_column else [])]
        self.done: Callable[[], float] = lambda: 0.0
        kind = self.path.suffix.lower()
        if self.path.is_dir():
            raise UserError(f"{path}: a folder, not a file")
        if kind not in FORMATS:
            raise UserError(f"{path}: not a format that can be read ({', '.join(FORMATS)})")
        if not self.path.is_file():
            raise UserError(f"{path}: no such file")
        if kind == ".txt" and pair_column:
            raise UserError(f"{path}: a txt file has one text a line and no columns; pairs need csv, jsonl or parquet")
        read = {".txt": self._txt, ".jsonl": self._jsonl, ".json": self._json, ".parquet": self._parquet}.get(kind, self._csv)
        self._rows = read()
        self._first = next(self._rows, None)  # opens the file: a missing column is found before anything is computed

    def __iter__(self) -> Iterator[Text]:
        if self._first is not None:
            yield self._first
            yield from self._rows

    def _open(self) -> BinaryIO:
        try:
            file = open(self.path, "rb")  # noqa: SIM115  (closed by whoever reads)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        size = max(1, self.path.stat().st_size)
        self.done = lambda: 1.0 if file.closed else min(1.0, file.tell() / size)
        return file

    def _lines(self, file: BinaryIO) -> Iterator[tuple[str, str]]:
        """(line, why it is none), line ends off, byte order mark off."""
        for number, line in enumerate(file):
            if number == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line.decode().rstrip("\r\n"), ""
            except UnicodeDecodeError as error:
                yield line.decode(errors="replace").rstrip("\r\n"), f"not UTF-8 (byte 0x{line[error.start]:02x})"

    def _txt(self) -> Iterator[Text]:
        with self._open() as file:
            for row, (line, why) in enumerate(self._lines(file), 1):
                yield Text(row, line, None, why or _why(line))

    def _jsonl(self) -> Iterator[Text]:
        with self._open() as file:
            rows = 0
            for line, why in self._lines(file):
                if not why and not line.strip():
                    continue
                rows += 1
                try:
                    value = None if why else json.loads(line)
                except ValueError as error:
                    why = f"not JSON ({error})"
                yield Text(rows, "", None, why) if why else self._object(rows, value)

    def _json(self) -> Iterator[Text]:
        with self._open() as file:
            try:
                values = json.load(file)
            except ValueError as error:
                raise UserError(f"{self.path}: not JSON ({error}); a file with an object a line is .jsonl") from None
            if not isinstance(values, list):
                raise UserError(f"{self.path}: not a list of objects; a file with an object a line is .jsonl")
            for row, value in enumerate(values, 1):
                self.done = lambda row=row: row / len(values)  # type: ignore[misc]
                yield self._object(row, value)

    def _object(self, row: int, value: Any) -> Text:
        if isinstance(value, str):  # a list of bare texts
            return Text(row, value, None, _why(value))
        if not isinstance(value, dict):
            return Text(row, "", None, "not an object with columns")
        if row == 1:
            self._check(list(value))
        return self._text(row, [value.get(column) for column in self.columns])

    def _csv(self) -> Iterator[Text]:
        csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
        with self._open() as file:
            faults: list[str] = []

            def lines() -> Iterator[str]:
                for line, why in self._lines(file):
                    faults.append(why) if why else None
                    yield line + "\n"

            reader = csv.reader(lines(), delimiter=self._delimiter())
            header = next(reader, [])
            places = self._check(header)
            row = 0
            while True:
                faults.clear()
                try:
                    fields = next(reader)
                except StopIteration:
                    return
                except csv.Error as error:
                    fields, faults = [], [f"not well-formed csv ({error})"]
                if not fields and not faults:
                    continue  # an empty line
                row += 1
                if not faults and len(fields) != len(header):
                    faults.append(f"{len(fields)} fields where the header has {len(header)} (line {reader.line_num})")
                yield Text(row, "", None, faults[0]) if faults else self._text(row, [fields[place] for place in places])

    def _delimiter(self) -> str:
        """A tab in tsv; in csv a comma, or what spreadsheets of other countries write instead."""
        if self.path.suffix.lower() == ".tsv":
            return "\t"
        with open(self.path, "rb") as file:
            head = file.readline(SNIFFED).decode(errors="replace")
        return max(",;\t", key=lambda mark: (head.count(mark), mark == ","))

    def _parquet(self) -> Iterator[Text]:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        try:
            file = parquet.ParquetFile(self.path)
        except (OSError, pa.ArrowException) as error:
            raise UserError(f"{self.path}: not readable as parquet ({str(error).splitlines()[0]})") from None
        with file:
            self._check(file.schema_arrow.names)
            total, row = max(1, file.metadata.num_rows), 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=self.columns):
                columns = [batch.column(column).to_pylist() for column in self.columns]
                for values in zip(*columns, strict=True):
                    row += 1
                    self.done = lambda row=row: row / total  # type: ignore[misc]
                    yield self._text(row, values)

    def _check(self, there: Sequence[str]) -> list[int]:
        """Where the columns stand. Raises UserError, one line, for one that is not there."""
        names = [str(name) for name in there]
        if not names:
            raise UserError(f"{self.path}: the file is empty")
        for option, column in zip(("--text-column", "--pair-column"), self.columns, strict=False):
            if column not in names:
                lower = {name.lower(): name for name in names}
                close = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.5)
                hint = f"did you mean {lower[close[0]]!r}? " if close else ""
                raise UserError(f"{self.path}: no column {column!r} ({option}); {hint}there are {', '.join(names) or 'none'}")
        return [names.index(column) for column in self.columns]

    def _text(self, row: int, values: Sequence[Any]) -> Text:
        why = next(filter(None, map(_why, values)), "")
        shown = values[0] if isinstance(values[0], str) else ""
        return Text(row, shown, values[1] if len(values) > 1 and not why else None, why)


def _why(value: Any) -> str:
    """Why a value is no text to be labelled; empty for one that is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "no text"
    return "" if isinstance(value, str) else f"{json.dumps(value, default=str)[:40]} is not text"


def bare_text(row: int, text: str) -> Text:
    """A text from a terminal or a pipe, whose bytes that are no UTF-8 came as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode(errors="surrogateescape").decode(errors="replace")
        return Text(row, shown, None, f"not UTF-8 (byte 0x{ord(text[error.start]) - 0xDC00:02x})")
    return Text(row, text, None, _why(text))


def read_texts(path: str | Path, column: str = "text", pair_column: str | None = None) -> TextFile:
    """The rows of a file, to be iterated over. Raises UserError where there are none to be had."""
    return TextFile(path, column, pair_column)
