"""JSON: an object per line, a list of objects, and the shapes of json_shapes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distsent.errors import UserError
from distsent.formats.json.shapes import named_rows, parts_of_value, rows_of_value
from distsent.formats.json.values import CHUNK, NotJson, Twice, parse, values
from distsent.formats.options import FileOptions
from distsent.formats.reader import Reader
from distsent.formats.records import counted, first_few, shorten
from distsent.formats.streams import TextStream, open_text

LINES = (".jsonl", ".ndjson", ".jl")  # suffixes of files with a value per line
BLOCKS = ("[", "{", "[{")  # first lines of a value on several lines


def parts_of(path: Path, name: str, options: FileOptions | None = None) -> dict[str, int]:
    """The splits that a JSON file holds as keys, with their rows; empty if it is no such file.

    File(..., part=split) is one of them. The names are the keys of the file, as they are:
    {"train": 15000, "val": 3000, "oos_test": 1000}.
    """
    with open_text(path, name, options) as text:
        try:
            if _is_lines(text.again()) or _begins_list(text.again()):
                return {}
            every = [*islice(values(text), 2)]
        except NotJson as error:
            raise UserError(f"{name}: {error}") from None
        found = parts_of_value(every[0]) if len(every) == 1 else {}
        return {key: len([*rows_of_value(name, rows)[0]]) for key, rows in found.items()}


class JsonReader(Reader):
    """json: of a file that holds splits, one of them, or the rows of all."""

    format = "json"
    _share = 0.0

    def done(self) -> float:
        return self._share or super().done()

    def _open(self) -> None:
        self._rows: Iterator[tuple[Any, str]]
        super()._open()
        try:
            if _is_lines(self._file.again()):
                self._open_text(_each_line)
            elif _begins_list(self._file.again()):
                self._open_text(_each_value)
            else:
                self._open_object()
        except NotJson as error:
            raise UserError(f"{self.name}: {error}") from None

    def _open_text(self, rows: Callable[[TextStream], Iterator[tuple[Any, str]]]) -> None:
        """A first pass finds the columns, and whether a list ends well."""
        self._find_columns(rows(self._file.again()))
        self._rows = rows(self._file)

    def _open_object(self) -> None:
        """An object, or several that are not each a line."""
        every = [*islice(values(self._file.again()), 2)]
        if len(every) == 2:
            return self._open_text(_each_value)
        rows, how = self._rows_of(*every)
        self.notes.extend([f"the rows are {how}"] if how else [])
        self._find_columns((row, "") for row in rows)
        self._rows = self._followed(rows)

    def _rows_of(self, value: Any) -> tuple[Sequence[Any], str]:
        """The rows that an object holds, and how."""
        parts = parts_of_value(value)
        if self.part and self.part not in parts:
            raise UserError(f"{self.name}: no split {self.part!r}; there are {first_few([*parts])}")
        if self.part:
            rows, how = rows_of_value(self.name, parts[self.part])
            return [*rows], how
        if parts and self.strict:
            fix = "name it as data.source, not as data.train or another split"
            raise UserError(f"{self.name}: holds the splits {first_few([*parts])}; {fix}")
        if parts:
            tables = [[*rows_of_value(self.name, part)[0]] for part in parts.values()]
            counts = zip(parts, map(len, tables), strict=True)
            return [*chain(*tables)], f"splits {', '.join(f'{k} ({n:,})' for k, n in counts)}"
        rows, how = rows_of_value(self.name, value)
        return [*rows], how

    def _followed(self, rows: Sequence[Any]) -> Iterator[tuple[Any, str]]:
        for row, value in enumerate(rows, 1):
            self._share = row / len(rows)
            yield value, ""

    def _find_columns(self, rows: Iterator[tuple[Any, str]]) -> None:
        """Those of all rows: any may lack some."""
        columns, lengths, self.rows = dict[str, None](), set[int](), 0
        for value, _ in rows:
            self.rows += 1
            if isinstance(value, dict):
                columns.update(dict.fromkeys(value))
            elif isinstance(value, list):
                lengths.add(len(value))
        self._set_columns([*columns], lengths)

    def _set_columns(self, names: Sequence[str], lengths: Iterable[int]) -> None:
        """Rows that are lists have the columns data.names, else their positions."""
        self._names: Sequence[str] = ()
        if not names and (sizes := sorted(lengths)):
            given = self.options.names or ()
            if given and len(given) not in sizes:
                said = f"data.names has {len(given)} names, but rows have {sizes[0]} values"
                raise UserError(f"{self.name}: {said}")
            same = len(sizes) == 1 and sizes[0] > 1
            self._names = given or ([*map(str, range(sizes[0]))] if same else ())
            self.resolved["names"] = [*self._names] or None
        self.columns = [*(names or self._names)] or None

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        # A bare text has no columns, so no label
        kinds = dict if self.strict else (dict, str)
        wanted = {*columns}
        for value, error in self._rows:
            if self._names:
                (value,) = named_rows([value], self._names)
            if not error and self._names and isinstance(value, list):
                error = f"{counted(len(value), 'value')} for {len(self._names)} columns"
            if not error and not isinstance(value, kinds):
                error = f"{shorten(value)} is not an object with columns"
            if isinstance(value, Twice) and (twice := wanted & value.names):
                error = f"the key {min(twice)!r} occurs twice in this object"
            yield value, error


def _each_line(text: TextStream) -> Iterator[tuple[Any, str]]:
    with text:
        for line in text:
            if not line.isspace():
                try:
                    yield parse(line.strip()), ""
                except NotJson as error:
                    yield None, str(error)


def _each_value(text: TextStream) -> Iterator[tuple[Any, str]]:
    with text:
        for value in values(text):
            yield value, ""


def _begins_list(text: TextStream) -> bool:
    """Whether the first character that is no blank is [."""
    with text:
        while (line := text.readline(1024)) and line.isspace():
            pass
    return line.lstrip().startswith("[")


def _is_lines(text: TextStream) -> bool:
    """Whether each line is a value, judged by the first two that are not blank.

    A bad line among good ones costs its own row alone, so a first line that is bad, but does not
    go on in the second, is no reason to read the file as a whole.
    """
    suffix = text.source.suffix
    with text:
        # A list may be one line as long as the file
        begin = iter(lambda: text.readline(CHUNK), "")
        head = [line.strip() for line in islice((x for x in begin if not x.isspace()), 2)]
    if not head:
        return True
    if head[0].startswith("[") and len(head[0]) > CHUNK / 2:
        return False
    try:
        value = parse(head[0])
    except NotJson as error:
        if error.python:
            raise
        return (len(head) == 2 and head[0] not in BLOCKS and suffix in LINES) or (
            not error.cut and _is_value(head[1:])
        )
    return len(head) == 2 or not isinstance(value, list | dict)


def _is_value(lines: Sequence[str]) -> bool:
    try:
        return bool([parse(line) for line in lines])
    except NotJson:
        return False
