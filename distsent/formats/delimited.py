"""Delimited text: csv, tsv."""

import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

from distsent.errors import UserError
from distsent.formats.reader import Reader
from distsent.formats.records import decode_error

MAX_RECORD_LINES = 1000  # of csv, once a quote was found that never closes


class CsvReader(Reader):
    """csv: fields between commas, or the semicolons or tabs that some spreadsheets write."""

    format = "csv"
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
