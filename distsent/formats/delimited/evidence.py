"""What a whole delimited file says for and against one dialect, from one streaming pass."""

import re
from collections.abc import Iterable

from distsent.formats.delimited.dialect import CR, ESCAPED, LF, Dialect, Malformed, parse_hidden
from distsent.formats.delimited.quotes import Quotes, tally_of

_LINE_END = re.compile(f"[\r\n{CR}{LF}]").search


class Evidence:
    """Of one dialect. Rows are the records behind the first one."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.line_ends = False  # inside the first record
        self.width = 0  # fields of the first record
        self.row_width = (
            0  # of the rows; one more where they end with a delimiter or have R's numbers
        )
        self.numbered = False  # the rows begin with R's row numbers, which the header does not name
        self.rows = 0
        self.bad = 0  # rows with another number of fields
        self.first_bad: tuple[int, int, int] = (0, 0, 0)  # the first one: row, line, fields
        self.malformed: Malformed | None = None
        self.malformed_row = 0
        self.quotes = Quotes()

    @property
    def valid(self) -> bool:
        """Quotes are well-formed, and all rows have the same number of fields."""
        return bool(self.width) and not self.malformed and not self.bad


def examine(
    lines: Iterable[str], dialect: Dialect, has_header: bool = True, patient: bool = False
) -> Evidence:
    """The evidence of a file. It ends at the first bad row, or if `patient` with the file."""
    found = Evidence(dialect)
    tally, mark, first = tally_of(dialect), dialect.quotechar or '"', True
    try:
        for line, fields, raw in parse_hidden(lines, dialect):
            if first and has_header and not any(fields):
                continue  # only delimiters above the header
            if any(mark in text or ESCAPED in text for text in raw):
                tally(found.quotes, fields, raw, line, first)
            if first:
                found.width = found.row_width = len(fields)
                found.line_ends = any(map(_LINE_END, fields))
            else:
                found.rows += 1
                _count(found, fields, line)
            first = False
            if found.bad and not patient:
                break
    except Malformed as error:
        found.malformed, found.malformed_row = error, found.rows + 1 - first
        found.quotes.escaped += any('\\"' in text for text in error.lines)
    return found


def _count(found: Evidence, fields: list[str], line: int) -> None:
    """Compare the number of fields with that of the first record."""
    if found.rows == 1 and len(fields) == found.width + 1:
        found.numbered = fields[0] == "1"
        found.row_width += found.numbered or not fields[-1]
    fits = len(fields) == found.row_width
    if fits and found.row_width > found.width:
        fits = fields[0] == str(found.rows) if found.numbered else not fields[-1]
    if not fits:
        found.bad += 1
        if found.bad == 1:
            found.first_bad = found.rows, line, len(fields)
