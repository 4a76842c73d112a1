"""JSON: an object per line, a list of objects, and the shapes of json_shapes.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distsent.errors import UserError
from distsent.formats.json_shapes import named_rows, parts_of_value, rows_of_value
from distsent.formats.json_values import CHUNK, NotJson, Twice, parse, values
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from distsent.formats.reader import Reader
from distsent.formats.records import counted, first_few, shorten
from distsent.formats.streams import TextStream, open_text

HEAD = 100  # lines that are searched for column names
LINES = (".jsonl", ".ndjson", ".jl")  # suffixes of files with a value per line
BLOCKS = ("[", "{", "[{")  # first lines of a value on several lines


def parts_of(path: Path, name: str, options: FileOptions | None = None) -> dict[str, int]:
    """The splits that a JSON file holds as keys, with their rows; empty if it is no such file.

    open_file(..., part=split) reads one of them. The names are the keys of the file, as they are:
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
    """json: `part` names one of the splits that the file holds."""

    format = "json"
    _share = 0.0

    def __init__(
        self,
        path: Path,
        name: str,
        options: FileOptions | None = None,
        strict: bool = False,
        recorded: ReadAs | None = None,
        part: str = "",
    ) -> None:
        self.part = part
        super().__init__(path, name, options, strict, recorded)

    def done(self) -> float:
        return self._share or super().done()

    def _open(self) -> None:
        self._rows: Iterator[tuple[Any, str]]
        super()._open()
        try:
            if _is_lines(self._file.again()):
                self._find_columns(self._lines())
            elif _begins_list(self._file.again()):
                self._open_list()
            else:
                self._open_values()
        except NotJson as error:
            raise UserError(f"{self.name}: {error}") from None

    def _lines(self) -> Iterator[tuple[Any, str]]:
        for line in self._file:
            if not line.isspace():
                try:
                    yield parse(line.strip()), ""
                except NotJson as error:
                    yield None, str(error)

    def _open_list(self) -> None:
        """One pass over the list finds its columns, and whether it ends well."""
        columns, lengths, self.rows = dict[str, None](), set[int](), 0
        for value in values(self._file.again()):
            self.rows += 1
            columns |= dict.fromkeys(value) if isinstance(value, dict) else {}
            lengths |= {len(value)} if isinstance(value, list) else set()
        self._set_columns([*columns], lengths)
        self._rows = _good(values(self._file))

    def _open_values(self) -> None:
        """An object, or several that are not each a line."""
        every = [*islice(values(self._file.again()), 2)]
        if len(every) == 2:
            return self._find_columns(_good(values(self._file)))
        (value,) = every
        parts = parts_of_value(value)
        if self.part and self.part not in parts:
            raise UserError(f"{self.name}: no split {self.part!r}; there are {first_few([*parts])}")
        if self.part:
            rows, how = rows_of_value(self.name, parts[self.part])
        elif parts and self.strict:
            fix = "name it as data.source, not as data.train or another split"
            raise UserError(f"{self.name}: holds the splits {first_few([*parts])}; {fix}")
        elif parts:
            tables = [[*rows_of_value(self.name, part)[0]] for part in parts.values()]
            counts = zip(parts, map(len, tables), strict=True)
            rows, how = chain(*tables), f"splits {', '.join(f'{k} ({n:,})' for k, n in counts)}"
        else:
            rows, how = rows_of_value(self.name, value)
        self.notes.extend([f"the rows are {how}"] if how else [])
        self._open_rows([*rows])

    def _open_rows(self, rows: Sequence[Any]) -> None:
        self.rows = len(rows)
        names = (name for row in rows if isinstance(row, dict) for name in row)
        self._set_columns([*dict.fromkeys(names)], {len(x) for x in rows if isinstance(x, list)})
        self._rows = self._counted(rows)

    def _counted(self, rows: Sequence[Any]) -> Iterator[tuple[Any, str]]:
        for row, value in enumerate(rows, 1):
            self._share = row / len(rows)
            yield value, ""

    def _find_columns(self, rows: Iterator[tuple[Any, str]]) -> None:
        head = [*islice(rows, HEAD)]
        lengths = {len(value) for value, _ in head if isinstance(value, list)}
        names = (name for value, _ in head if isinstance(value, dict) for name in value)
        self._set_columns([*dict.fromkeys(names)], lengths)
        self._rows = chain(head, rows)

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


def _good(rows: Iterator[Any]) -> Iterator[tuple[Any, str]]:
    return ((value, "") for value in rows)


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
