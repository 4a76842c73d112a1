"""Texts to be labelled, out of a file of any size: txt, csv, tsv, jsonl, json, parquet.

A row that cannot be read is a row with a reason in place of its text: one bad line does not cost the other million.
"""

from __future__ import annotations

import csv
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from distsent.errors import UserError

FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".json", ".parquet")
PARQUET_ROWS = 4096  # read at once
LINES = 1000  # of a record of csv
HEAD = 100  # objects that are looked at for what columns there are
SNIFFED = 1 << 16  # bytes


class Text(NamedTuple):
    """A row: its number as the user counts, from 1, and its text - or, where `why` says something, no text."""

    row: int
    text: str
    pair: str | None = None
    why: str = ""


class TextFile:
    """The texts of a file, in its order. Iterate over it; `done` says how much of the file is behind."""

    def __init__(
        self, path: str | Path, column: str = "text", pair_column: str | None = None
    ) -> None:
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
            raise UserError(
                f"{path}: a txt file has one text a line and no columns; pairs need csv, jsonl or parquet"
            )
        read = {
            ".txt": self._txt,
            ".jsonl": self._jsonl,
            ".json": self._json,
            ".parquet": self._parquet,
        }.get(kind, self._csv)
        self._rows = read()
        self._first = next(
            self._rows, None
        )  # opens the file: a missing column is found before anything is computed

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
            yield _decoded(line, number == 0)

    def _txt(self) -> Iterator[Text]:
        with self._open() as file:
            for row, (line, why) in enumerate(self._lines(file), 1):
                yield Text(row, line, None, why or _why(line))

    def _jsonl(self) -> Iterator[Text]:
        def values() -> Iterator[tuple[Any, str]]:
            for line, why in self._lines(file):
                if not why and not line.strip():
                    continue
                try:
                    value = None if why else json.loads(line)
                except ValueError as error:
                    value, why = None, f"not JSON ({error})"
                yield value, why

        with self._open() as file:
            yield from self._objects(values())

    def _json(self) -> Iterator[Text]:
        with self._open() as file:
            try:
                values = json.load(file)
            except ValueError as error:
                raise UserError(
                    f"{self.path}: not JSON ({error}); a file with an object a line is .jsonl"
                ) from None
            if not isinstance(values, list):
                raise UserError(
                    f"{self.path}: not a list of objects; a file with an object a line is .jsonl"
                )
            for text in self._objects((value, "") for value in values):
                self.done = lambda row=text.row: row / len(values)  # type: ignore[misc]
                yield text

    def _objects(self, values: Iterator[tuple[Any, str]]) -> Iterator[Text]:
        """(value, why it is none) as texts. Columns may be missing in single rows, but not in all of the first."""
        head = list(islice(values, HEAD))
        if names := list(
            dict.fromkeys(name for value, _ in head if isinstance(value, dict) for name in value)
        ):
            self._check(names)
        for row, (value, why) in enumerate(chain(head, values), 1):
            if why or not isinstance(value, str | dict):
                yield Text(row, "", None, why or "not an object with columns")
            elif isinstance(value, str):  # a list of bare texts
                yield bare_text(row, value)
            else:
                yield self._text(row, [value.get(column) for column in self.columns])

    def _csv(self) -> Iterator[Text]:
        csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
        with self._open() as file:
            header: list[str] = []
            places: list[int] = []
            rows = 0
            for fields, fault, line in self._records(file):
                if not header:
                    if not fields:
                        raise UserError(f"{self.path}: {fault}")
                    header, places = fields, self._check(fields)
                    continue
                rows += 1
                if not fault and len(fields) != len(header):
                    fault = f"{len(fields)} fields where the header has {len(header)} (line {line})"
                yield (
                    Text(rows, "", None, fault)
                    if fault
                    else self._text(rows, [fields[place] for place in places])
                )
            if not header:
                self._check([])

    def _records(self, file: BinaryIO) -> Iterator[tuple[list[str], str, int]]:
        """(fields, why they are none, the last line) of each record that is not empty.

        A quote that nobody closes takes everything behind it for one field: only the line that opens it is given up. A line that
        merely begins with a quoted word is read as it is.
        """
        delimiter = self._delimiter()
        begin, first, last = 0, 0, 0  # where the record begins, and its lines
        most = sys.maxsize  # lines of a record; once one had no end, no other is looked for as far

        def lines() -> Iterator[str]:
            nonlocal last
            while last - first < most and (line := file.readline()):
                last += 1
                text, why = _decoded(line, last == 1)
                faults.append(why) if why else None
                yield text + "\n"

        while True:
            faults: list[str] = []
            reader = csv.reader(lines(), delimiter=delimiter, strict=True)
            try:
                for fields in reader:
                    if fields or faults:
                        yield fields, faults[0] if faults else "", last
                    begin, first = file.tell(), last
                    faults.clear()
                return
            except csv.Error as error:
                endless = "unexpected end" in str(error)
                most = LINES if endless else most
                file.seek(begin)
                line, _ = _decoded(file.readline(), first == 0)
                alone, last = last - first == 1 and not endless, first + 1
                if alone:
                    yield (
                        next(csv.reader([line], delimiter=delimiter)),
                        faults[0] if faults else "",
                        last,
                    )
                else:
                    yield [], f"not well-formed csv ({error}, line {last})", last
                begin, first = file.tell(), last

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
            raise UserError(
                f"{self.path}: not readable as parquet ({str(error).splitlines()[0]})"
            ) from None
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
                raise UserError(
                    f"{self.path}: no column {column!r} ({option}); {hint}there are {', '.join(names) or 'none'}"
                )
        return [names.index(column) for column in self.columns]

    def _text(self, row: int, values: Sequence[Any]) -> Text:
        why = next(filter(None, map(_why, values)), "")
        shown = values[0] if isinstance(values[0], str) else ""
        return Text(
            row,
            _shown(shown) if why else shown,
            values[1] if len(values) > 1 and not why else None,
            why,
        )


def _decoded(line: bytes, first: bool) -> tuple[str, str]:
    """(line, why it is none), line end off, and in the first one the byte order mark."""
    line = line.removeprefix(b"\xef\xbb\xbf") if first else line
    try:
        return line.decode().rstrip("\r\n"), ""
    except UnicodeDecodeError as error:
        return line.decode(errors="replace").rstrip(
            "\r\n"
        ), f"not UTF-8 (byte 0x{line[error.start]:02x})"


def _why(value: Any) -> str:
    """Why a value is no text to be labelled; empty for one that is."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return "no text"
    if not isinstance(value, str):
        return f"{json.dumps(value, default=str)[:40]} is not text"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        return (
            f"not UTF-8 (byte 0x{code - 0xDC00:02x})"
            if 0xDC80 <= code <= 0xDCFF
            else f"half a character (\\u{code:04x})"
        )
    return ""


def _shown(text: str) -> str:
    """A text as it can be printed."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def bare_text(row: int, text: str) -> Text:
    """A text that came alone; out of a terminal or a pipe, bytes that are no UTF-8 come as lone surrogates."""
    why = _why(text)
    return Text(row, _shown(text) if why else text, None, why)


def read_texts(path: str | Path, column: str = "text", pair_column: str | None = None) -> TextFile:
    """The rows of a file, to be iterated over. Raises UserError where there are none to be had."""
    return TextFile(path, column, pair_column)
