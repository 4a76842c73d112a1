"""Delimited text: csv, tsv, any delimiter. The whole file decides how it is read."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from distsent.errors import UserError
from distsent.formats.compression import data_suffix
from distsent.formats.delimited import header
from distsent.formats.delimited.asked import Asked
from distsent.formats.delimited.detect import HEAD, detect
from distsent.formats.delimited.dialect import Dialect, Record, parse
from distsent.formats.delimited.evidence import Evidence
from distsent.formats.delimited.faults import wrong_width
from distsent.formats.options import FileOptions
from distsent.formats.reader import Reader
from distsent.formats.records import first_few, shorten
from distsent.formats.streams import TextStream

SETTLED = 2_000_000_000  # nanoseconds: a file may change again within a tick of its time stamp
TABBED = (".tsv", ".tab")


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
        if layout.dialect.lineterminator == "\r":
            stream, self._file = self._file, self._file.again("\r")
            stream.close()
        self.columns, self.rows = [*layout.columns], layout.rows
        self.resolved.update(layout.resolved)
        self.notes.extend(layout.notes)

    def _read(self, columns: Sequence[str | int]) -> Iterator[tuple[Any, str]]:
        layout, names = self._layout, self.columns or []
        places = {name: place for place, name in reversed([*enumerate(names)])}
        known = [c for c in columns if isinstance(c, int) or c in places]
        wanted = [(c, c if isinstance(c, int) else places[c]) for c in known]
        records = parse(self._file, layout.dialect)
        if layout.has_header:
            _take_first(records, skip_empty=layout.skips_empty)
        for line, fields, _ in records:
            if len(fields) == layout.width:
                yield {column: fields[index] for column, index in wanted}, ""
            else:
                wrong = wrong_width(len(fields), layout.width, line)
                yield {}, f"{wrong}; put quotes around texts that contain the delimiter"

    def _find_layout(self) -> Layout:
        stream, options, recorded = self._file, self.options, self.recorded
        default = "\t" if data_suffix(self.path) in TABBED else ","
        used = recorded.options if recorded and recorded.format == self.format else {}
        asked = Asked(
            self.name,
            lambda: _lines(stream, "\n"),
            lambda: _lines(stream, "\r"),
            options,
            default,
            used,
        )
        found = detect(asked, _line_ends(stream))
        lines = asked.lines if found.dialect.lineterminator == "\n" else asked.lines_by_cr
        records = parse(lines(), found.dialect)
        first = _take_first(records, asked.has_header)
        if not first:
            return Layout(found.dialect, options.names or (), 0, False, False, 0, {}, ())
        if found.numbered:
            first = ["", *first]
        rows = header.survey(records, first, deep=bool(options.names))
        has_header = header_exists(self.name, options, rows)
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


def _lines(stream: TextStream, newline: str) -> Iterator[str]:
    """The lines of a file from its beginning."""
    with stream.again(newline) as again:
        yield from again


def _line_ends(stream: TextStream) -> list[str]:
    """What the lines may end with, the likeliest first; "\\n" includes "\\r\\n"."""
    head = islice(_lines(stream, ""), HEAD)
    ends = ["\r" if line.endswith("\r") else "\n" for line in head]
    return [*dict.fromkeys(ends)] or ["\n"]


def _bare(name: str) -> str:
    return name.strip() or name


def header_exists(name: str, options: FileOptions, rows: header.Survey) -> bool:
    """Whether the first record is a header, by all rows. Raises UserError where in doubt."""
    if options.names and options.header == "auto":
        if [*map(str.strip, rows.first)] == [*map(str.strip, options.names)]:
            return True
        if why := header.looks_like_names(rows):
            found = first_few([*map(shorten, rows.first)])
            fix = "data.header = true replaces it by data.names, false reads it as a row"
            raise UserError(
                f"{name}: the first row ({found}) looks like a header ({why}); {fix}",
                fix={"data.header": True},
                others=[{"data.header": False}],
            )
        return False
    if options.header == "auto" and (why := header.looks_like_data(rows)):
        names = header.suggested_names(rows)
        fix = f"data.names = {shorten(names)} names the columns"
        other = "data.header = true says that it is a header"
        raise UserError(
            f"{name}: the first row looks like data ({why}): {fix}, {other}",
            fix={"data.names": names},
            others=[{"data.header": True}],
        )
    if options.header is not False and rows.repeated and len(rows.first) > 1:
        row, line = rows.repeated
        why = "repeats the header, as in joined files"
        raise UserError(f"{name}, row {row} (line {line}): {why}; remove the line")
    return options.header is not False


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
    if found.dialect.lineterminator == "\r":
        notes.append("lines end with a carriage return alone")
    return tuple(notes)
