"""Delimited text: csv, tsv, any delimiter. The whole file decides how it is read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from distsent.formats.commands import rewritten
from distsent.formats.delimited import header
from distsent.formats.delimited.asked import Asked, without_excel
from distsent.formats.delimited.detect import as_database, detect
from distsent.formats.delimited.dialect import Dialect, Record, parse
from distsent.formats.delimited.evidence import Evidence
from distsent.formats.delimited.faults import wrong_width
from distsent.formats.options import FileOptions
from distsent.formats.reader import Reader

SETTLED = 2_000_000_000  # nanoseconds: a file may change again within a tick of its time stamp


@dataclass(frozen=True)
class Layout:
    """All that is known of a file."""

    dialect: Dialect
    columns: tuple[str, ...]
    width: int  # fields of a row; one more than columns where rows end with a delimiter
    has_header: bool
    skips_empty: bool  # rows of delimiters alone above the header
    rows: int
    resolved: dict[str, Any]
    notes: tuple[str, ...]


class DelimitedReader(Reader):
    """csv: fields between commas, tabs, semicolons or what else the file shows."""

    format, newline = "csv", "\n"
    _layouts: dict[Any, Layout] = {}  # noqa: RUF012  of all files: most are opened twice

    def _open(self) -> None:
        super()._open()
        stat = self.path.stat()
        asked = repr((self.options, self.recorded))
        key = (self.path, stat.st_mtime_ns, stat.st_size, asked)
        self._layout = layout = self._layouts.get(key) or self._find_layout()
        if time.time_ns() - stat.st_mtime_ns > SETTLED:
            self._layouts[key] = layout
        if (end := layout.dialect.lineterminator) != "\n":
            stream, self._file = self._file, self._file.again(end)
            stream.close()
        self.columns, self.rows = [*layout.columns], layout.rows
        self.resolved.update(layout.resolved)
        self.notes.extend(layout.notes)

    def rewritten(self, each: str, setup: str = "") -> str:
        layout, encoding = self._layout, self.resolved["encoding"].replace("utf-8", "utf-8-sig")
        dialect = layout.dialect
        if len(dialect.delimiter) > 1 or dialect.database or dialect.lineterminator == "\r":
            return ""
        keys: dict[str, Any] = {"delimiter": dialect.delimiter} if dialect.delimiter != "," else {}
        keys |= {} if layout.has_header else {"fieldnames": [*layout.columns]}
        keys |= {} if dialect.quotechar else {"quoting": 3}
        keys |= {"quotechar": dialect.quotechar} if dialect.quotechar not in (None, '"') else {}
        keys |= {"escapechar": dialect.escapechar} if dialect.escapechar else {}
        said = "".join(f",{key}={value!r}" for key, value in keys.items())
        rows = f"csv.DictReader(open(0,encoding={encoding!r},newline=''){said})"
        return rewritten(self._file.source, (f"import csv;{setup}", rows), each)

    def _read(self, columns: Sequence[str | int]) -> Iterator[tuple[Any, str]]:
        layout, names = self._layout, self.columns or []
        places = {name: place for place, name in reversed([*enumerate(names)])}
        known = [c for c in columns if isinstance(c, int) or c in places]
        wanted = [(c, c if isinstance(c, int) else places[c]) for c in known]
        records = parse(without_excel(self._file), layout.dialect)
        if layout.has_header:
            _take_first(records, skip_empty=layout.skips_empty)
        for line, fields, _ in records:
            if len(fields) == layout.width:
                yield {column: fields[index] for column, index in wanted}, ""
            else:
                wrong = wrong_width(len(fields), layout.width, line)
                more = len(fields) > layout.width
                fix = "put quotes around texts that contain the delimiter"
                yield {}, f"{wrong}; {fix if more else 'complete it, or remove the line'}"

    def _find_layout(self) -> Layout:
        asked = Asked.of(self.file, self._file)
        return self._layout_of(asked, detect(asked))

    def _layout_of(self, asked: Asked, found: Evidence) -> Layout:
        options = self.options
        records = parse(asked.lines(found.dialect.lineterminator), found.dialect)
        first = _take_first(records, asked.has_header)
        if not first:
            return Layout(found.dialect, options.names or (), 0, False, False, 0, {}, ())
        if found.numbered:
            first = ["", *first]
        rows = header.survey(records, first, deep=bool(options.names))
        if rows.null and (dialect := as_database(asked, found)):
            return self._layout_of(asked, dialect)
        has_header = header.exists(self._file.source, options, rows)
        columns = [*first] if has_header else [*map(str, range(len(first)))]
        columns = [*(options.names or map(_bare, columns))]
        return Layout(
            found.dialect,
            tuple(columns),
            found.row_width,
            has_header,
            asked.has_header,
            rows.rows + (not has_header),
            _resolved(found, options, has_header, len(columns)),
            _notes(found, rows, has_header and not options.names),
        )


def _take_first(records: Iterator[Record], skip_empty: bool) -> list[str]:
    """The fields of the first record, or of the first with any value; none at the end."""
    return next((fields for _, fields, _ in records if not skip_empty or any(fields)), [])


def _bare(name: str) -> str:
    return name.strip() or name


def _resolved(found: Evidence, options: FileOptions, has_header: bool, width: int) -> dict:
    """The keys of [data] that read the file in this way, as far as it has evidence for them."""
    dialect = found.dialect
    out: dict[str, Any] = {}
    if width > 1:
        out["delimiter"] = dialect.delimiter
    if dialect.quotechar is None and found.quotes.opening:
        out["quoting"] = "none"
    elif dialect.quotechar and found.quotes.quoted:
        out["quoting"] = "csv" if dialect.quotechar == '"' else dialect.quotechar
    if dialect.escapechar or dialect.escaped_quotes:
        out["escapechar"] = dialect.escapechar or "\\"
    out["header"] = has_header
    if options.names:
        out["names"] = [*options.names]
    return out


def _notes(found: Evidence, rows: header.Survey, named: bool) -> tuple[str, ...]:
    """What the user should know of the rows."""
    empty = sum(not name.strip() for name in rows.first[1:]) if named else 0
    counted = {
        f"values in {empty} unnamed columns, which are not read": rows.unnamed if empty else 0,
        r'the field \N; data.escapechar = "\\" reads it as empty': rows.null,
    }
    notes = [f"{n:,} row{'s' * (n != 1)} with {what}" for what, n in counted.items() if n]
    if found.numbered:
        notes.append("rows begin with their number, which the header does not name")
    elif found.row_width > found.width:
        notes.append("rows end with a delimiter, which the header lacks")
    if found.dialect.database:
        notes.append(r"backslashes escape as in databases: \n is a newline, \N nothing")
    if found.dialect.lineterminator == "\r\n":
        notes.append("lines end with a carriage return and a line feed; one of them alone is text")
    if found.dialect.lineterminator == "\r":
        notes.append("lines end with a carriage return alone")
    return tuple(notes)
