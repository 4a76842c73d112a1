"""JSON: an object per line, a list of objects, and the shapes of json_shapes.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from distsent.errors import UserError
from distsent.formats.commands import filtered, rewritten
from distsent.formats.compression import Source
from distsent.formats.json.nested import Inner
from distsent.formats.json.shapes import (
    NoRows,
    list_paths,
    named_rows,
    parts_of_value,
    rows_of_value,
    texts_by_key,
)
from distsent.formats.json.values import CHUNK, NotJson, Twice, parse, values
from distsent.formats.options import FileOptions
from distsent.formats.reader import Reader
from distsent.formats.records import counted, first_few, shorten
from distsent.formats.streams import TextStream, open_text

LINES = (".jsonl", ".ndjson", ".jl")  # suffixes of files with a value per line
_CONVERT = (
    'python -c "import ast,json,sys;[print(json.dumps(ast.literal_eval(x)))for x in sys.stdin]"'
)
# Lists of messages, and where an entry has its text: of OpenAI, and of ShareGPT
_CHATS = {"messages": "content", "conversations": "value"}
_PRINT = "[print(json.dumps(x))for x in(%s)]"
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
            raise UserError(f"{name}: {_with_fix(error, text.source)}") from None
        found = parts_of_value(every[0]) if len(every) == 1 else {}
        return {key: len([*rows_of_value(name, rows)[0]]) for key, rows in found.items()}


class JsonReader(Reader):
    """json: of a file that holds splits, one of them, or the rows of all."""

    format = "json"
    _share = 0.0
    _in_python = ""  # the rows, of standard input

    def rewritten(self, each: str, setup: str = "") -> str:
        rows = setup, self._in_python
        return rewritten(self._file.source, rows, each) if self._in_python else ""

    def in_row(self, column: str) -> str:
        steps = self._inner.paths.get(column, (column,))
        if steps[0] in self._names:  # rows are lists
            steps = (str(self._names.index(steps[0])), *steps[1:])
        places = [step.isdigit() and (i or self._names) for i, step in enumerate(steps)]
        keys = (step if n else repr(step) for step, n in zip(steps, places, strict=True))
        return "x" + "".join(f"[{key}]" for key in keys)

    def done(self) -> float:
        return self._share or super().done()

    def _open(self) -> None:
        self._names: Sequence[str] = ()
        self._rows: Iterator[tuple[Any, str]]
        super()._open()
        try:
            if _is_lines(self._file.again()):
                self._in_python = "map(json.loads,filter(str.strip,sys.stdin))"
                self._open_text(_each_line)
            elif _begins_list(self._file.again()):
                self._in_python = "json.load(sys.stdin)"
                self._open_text(_each_value)
            else:
                self._open_object()
        except NotJson as error:
            raise UserError(f"{self.name}: {_with_fix(error, self._file.source)}") from None

    def _open_text(self, rows: Callable[[TextStream], Iterator[tuple[Any, str]]]) -> None:
        """A first pass finds the columns, and whether a list ends well."""
        self._find_columns(rows(self._file.again()))
        self._rows = rows(self._file)

    def _open_object(self) -> None:
        """An object, or several that are not each a line."""
        every = [*islice(values(self._file.again()), 2)]
        if len(every) == 2:
            return self._open_text(_each_value)
        what, kind, rows_in_python = texts_by_key(every[0])
        if what and self.strict and not parts_of_value(every[0]):
            convert = (
                f'python -c "import json,sys;d=json.load(sys.stdin);{_PRINT % rows_in_python}"'
            )
            convert = filtered(self._file.source, convert, ".jsonl")
            raise UserError(
                f"{self.name}: {what}: not read; {convert} converts it if keys are {kind}"
            )
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
        paths = list_paths(value) if isinstance(value, dict) else []
        if paths:
            self._in_python = f"json.load(sys.stdin){''.join(f'[{key!r}]' for key in paths[0])}"
        try:
            rows, how = rows_of_value(self.name, value)
        except NoRows as error:
            if not paths:
                raise
            lists = first_few([repr(".".join(path)) for path in paths])
            which = f"{self.name}: an object with lists of objects ({lists}), of which one has rows"
            raise UserError(f"{which}; {self.rewritten('[x]')} writes the first") from error
        return [*rows], how

    def _followed(self, rows: Sequence[Any]) -> Iterator[tuple[Any, str]]:
        for row, value in enumerate(rows, 1):
            self._share = row / len(rows)
            yield value, ""

    def _find_columns(self, rows: Iterator[tuple[Any, str]]) -> None:
        """Those of all rows: any may lack some."""
        columns, lengths, self.rows = dict[str, None](), set[int](), 0
        self._inner = Inner()
        for value, _ in rows:
            self.rows += 1
            if isinstance(value, dict):
                columns.update(dict.fromkeys(value))
                self._inner.add(value)
            elif isinstance(value, list):
                lengths.add(len(value))
                given = self.options.names or ()
                names = given if len(given) == len(value) else map(str, range(len(value)))
                self._inner.add(dict(zip(names, value, strict=True)))
        chats = next((name for name in _CHATS if name in columns), "")
        if self.strict and chats and {*columns} <= {chats, "id", "source", "system"}:
            last = (f"x[{chats!r}][{i}][{_CHATS[chats]!r}]" for i in (-2, -1))
            convert = self.rewritten("[dict(text={},label={})]".format(*last))
            raise UserError(f"{self.name}: chats; {convert} takes the last answer as the label")
        self._set_columns([*columns], lengths)
        top = {*(self.columns or ())}
        inner = [n for n, path in self._inner.paths.items() if n not in top and path[0] in top]
        self.columns = [*(self.columns or ()), *inner] or None

    def _set_columns(self, names: Sequence[str], lengths: Iterable[int]) -> None:
        """Rows that are lists have the columns data.names, else their positions."""
        self._names = ()
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
        inner = [name for name in columns if name in self._inner.paths]
        for value, error in self._rows:
            if self._names:
                (value,) = named_rows([value], self._names)
            if not error and self._names and isinstance(value, list):
                error = f"{counted(len(value), 'value')} for {len(self._names)} columns"
            if not error and not isinstance(value, kinds):
                error = f"{shorten(value)} is not an object with columns"
            if isinstance(value, Twice) and (twice := wanted & value.names):
                error = f"the key {min(twice)!r} occurs twice in this object"
            if not error and self.strict and "answer" not in wanted:
                error = _not_accepted(value, self._file.source)
            if inner and not error and isinstance(value, dict):
                value, error = self._with_inner(value, inner)
            yield value, error

    def _with_inner(self, row: Mapping[str, Any], names: Sequence[str]) -> tuple[Any, str]:
        """The row with the values of columns inside of others, and an error."""
        own = [name for name in names if name in row and len(self._inner.paths[name]) > 1]
        found = {name: self._inner.read(row, name) for name in names if name not in own}
        error = next((error for _, error in found.values() if error), "")
        return {**row, **{name: x for name, (x, _) in found.items()}}, error


def _with_fix(error: NotJson, source: Source) -> str:
    """What is wrong with a file, and the command that makes it JSON where one is known."""
    convert = f"; {filtered(source, _CONVERT, '.jsonl')} converts its lines"
    return f"{error}{convert if error.python else ''}"


def _not_accepted(row: Any, source: Source) -> str:
    """Why the label of a row is not meant: in Prodigy it was rejected; empty if it may be."""
    answer = row.get("answer") if isinstance(row, dict) and "_input_hash" in row else None
    if answer not in ("reject", "ignore"):
        return ""
    command = filtered(source, 'grep -E \'"answer": *"accept"\'')
    why = f"its label is not meant, as Prodigy's answer is {answer!r}"
    answers = 'data.label_column = "answer" learns the answers'
    return f"{why}; {command} keeps the accepted ones; {answers}"


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
