"""Readers of csv, tsv, json, jsonl, parquet and txt. A new format is a Reader in READERS."""

import csv
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

from distsent.data.records import Reader, decode_error, shorten
from distsent.errors import UserError

MAX_RECORD_LINES = 1000  # of csv, once a quote was found that never closes
HEAD = 100  # json rows that are searched for column names
PARQUET_ROWS = 4096  # read at once


def open_reader(path: Path, name: str, strict: bool = False) -> Reader:
    """The reader of a file, by its suffix. Error messages call the file `name`."""
    return READERS[path.suffix.lower()](path, name, strict)


class TextReader(Reader):
    """txt: one text per line."""

    newline = "\n"

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for number, line in enumerate(self._file, 1):
            yield line.rstrip("\r\n"), decode_error(line, number)


class CsvReader(Reader):
    """csv: fields between commas, or the semicolons or tabs that some spreadsheets write."""

    newline = ""  # line ends inside quotes stay as they are
    delimiters = ",;\t"

    def _open(self) -> None:
        super()._open()
        csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
        self._number, self._again = 0, deque[str]()  # of the line read last; lines to read again
        head = next((line for line in self._lines() if line.strip()), "")
        self._push_back([head])
        self._delimiter = max(self.delimiters, key=lambda mark: (head.count(mark), mark == ","))
        self._records = self._parse()
        self.columns, error = next(self._records, ([], ""))
        if error and (self.strict or not self.columns):
            raise UserError(f"{self.name}: {error}")

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        header = self.columns or []
        for fields, error in self._records:
            if not error and len(fields) != len(header):
                wrong = f"{len(fields)} fields where the header has {len(header)}"
                fix = "put quotes around texts that contain the delimiter"
                error = f"{wrong} (line {self._number}); {fix}"
            yield dict(zip(header, fields, strict=False)), error

    def _parse(self) -> Iterator[tuple[list[str], str]]:
        """(fields, error) of each record that is not empty.

        A quote that never closes turns the rest of the file into one field. Then only the line
        with that quote is a bad row, and reading resumes after it.
        """
        limit = sys.maxsize  # lower after one such quote: many would take quadratic time
        lines: list[str] = []  # of the current record

        def take() -> Iterator[str]:
            for line in self._lines():
                lines.append(line)
                yield line
                if len(lines) >= limit:
                    return

        while True:
            try:
                for fields in csv.reader(take(), delimiter=self._delimiter, strict=True):
                    error = self._decode_error(lines) if any(map(decode_error, lines)) else ""
                    lines.clear()
                    if fields or error:
                        yield fields, error
                return
            except csv.Error as failure:
                unclosed = "unexpected end" in str(failure)
                limit = MAX_RECORD_LINES if unclosed else limit
                stray_quote = len(lines) == 1 and not unclosed
                self._push_back(lines[1:])
                del lines[1:]
                fields, error = [], f"not well-formed csv ({failure}, line {self._number})"
                if stray_quote and not self.strict:
                    (fields,) = csv.reader([lines[0].rstrip("\r\n")], delimiter=self._delimiter)
                    error = self._decode_error(lines)
                lines.clear()
                yield fields, error

    def _lines(self) -> Iterator[str]:
        while line := self._again.popleft() if self._again else self._file.readline():
            self._number += 1
            yield line

    def _push_back(self, lines: Sequence[str]) -> None:
        self._again.extendleft(reversed(lines))
        self._number -= len(lines)

    def _decode_error(self, lines: Sequence[str]) -> str:
        """The first error of the lines that were read last; empty if there is none."""
        numbers = count(self._number - len(lines) + 1)
        return next(filter(None, map(decode_error, lines, numbers)), "")


class TsvReader(CsvReader):
    """tsv: csv with tabs."""

    delimiters = "\t"


class JsonLinesReader(Reader):
    """jsonl: one object per line. Single rows may lack columns."""

    def _open(self) -> None:
        super()._open()
        self._find_columns(self._parse_lines())

    def _find_columns(self, rows: Iterator[tuple[Any, str]]) -> None:
        head = list(islice(rows, HEAD))
        names = (name for values, _ in head if isinstance(values, dict) for name in values)
        self.columns = list(dict.fromkeys(names)) or None
        self._rows = chain(head, rows)

    def _parse_lines(self) -> Iterator[tuple[Any, str]]:
        for number, line in enumerate(map(str.strip, self._file), 1):
            if not line:
                continue
            values, error = None, decode_error(line, number)
            try:
                values = None if error else json.loads(line)
            except ValueError as failure:
                where = f", column {failure.colno}" if hasattr(failure, "colno") else ""
                error = f"not JSON ({getattr(failure, 'msg', failure)}{where})"
            yield values, error

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        # A bare text has no columns, so no label
        kinds = dict if self.strict else (dict, str)
        for values, error in self._rows:
            if not error and not isinstance(values, kinds):
                error = f"{shorten(values)} is not an object with columns"
            yield values, error


class JsonReader(JsonLinesReader):
    """json: a list of objects, which is parsed at once, or one object per line."""

    EXPECTED = "expected a list of objects, or one object per line"
    _share = 0.0

    def _open(self) -> None:
        Reader._open(self)
        lines = self._file.read(4096).lstrip().startswith("{")
        self._file.seek(0)
        self._find_columns(self._parse_lines() if lines else self._parse_list())
        if lines and self.columns is None:
            raise UserError(f"{self.name}: {next(self._rows)[1] or 'no columns'}; {self.EXPECTED}")

    def done(self) -> float:
        return self._share or super().done()

    def _parse_list(self) -> Iterator[tuple[Any, str]]:
        try:
            rows = json.loads(self.path.read_bytes())
        except ValueError as error:
            raise UserError(f"{self.name}: not JSON ({error}); {self.EXPECTED}") from None
        if not isinstance(rows, list):
            raise UserError(f"{self.name}: {shorten(rows)} is not a list; {self.EXPECTED}")
        for row, values in enumerate(rows, 1):
            self._share = row / len(rows)
            yield values, ""


class ParquetReader(Reader):
    """parquet: some thousand rows at a time."""

    _taken = 0

    def _open(self) -> None:
        from pyarrow.parquet import ParquetFile

        self._file = ParquetFile(self.path)
        self.columns = self._file.schema_arrow.names
        self._total = self._file.metadata.num_rows

    def done(self) -> float:
        return self._taken / max(1, self._total)

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for batch in self._file.iter_batches(PARQUET_ROWS, columns=list(columns)):
            for values in zip(*(self._python(batch.column(name)) for name in columns), strict=True):
                self._taken += 1
                yield dict(zip(columns, values, strict=True)), ""

    @staticmethod
    def _python(column: Any) -> list:
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            raw = column.cast("large_binary").to_pylist()
            return [None if x is None else x.decode(errors="surrogateescape") for x in raw]


READERS: dict[str, type[Reader]] = {
    **{".parquet": ParquetReader, ".csv": CsvReader, ".tsv": TsvReader},
    **{".jsonl": JsonLinesReader, ".json": JsonReader, ".txt": TextReader},
}
TABLES = tuple(suffix for suffix in READERS if suffix != ".txt")  # the formats with columns
