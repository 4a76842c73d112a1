"""JSON: objects one per line, or in a list."""

import json
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from distsent.errors import UserError
from distsent.formats.reader import Reader
from distsent.formats.records import decode_error, shorten

HEAD = 100  # rows that are searched for column names


class JsonLinesReader(Reader):
    """jsonl: one object per line. Single rows may lack columns."""

    format = "json"

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
        lines = self.path.suffix == ".jsonl" or self._file.again().read(4096).lstrip()[:1] == "{"
        self._find_columns(self._parse_lines() if lines else self._parse_list())
        if lines and self.columns is None and self.path.suffix != ".jsonl":
            raise UserError(f"{self.name}: {next(self._rows)[1] or 'no columns'}; {self.EXPECTED}")

    def done(self) -> float:
        return self._share or super().done()

    def _parse_list(self) -> Iterator[tuple[Any, str]]:
        try:
            rows = json.loads(self._file.read())
        except ValueError as error:
            raise UserError(f"{self.name}: not JSON ({error}); {self.EXPECTED}") from None
        if not isinstance(rows, list):
            raise UserError(f"{self.name}: {shorten(rows)} is not a list; {self.EXPECTED}")
        for row, values in enumerate(rows, 1):
            self._share = row / len(rows)
            yield values, ""
