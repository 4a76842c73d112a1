"""What is wrong with a delimited file that cannot be read, or with one of its rows."""

from collections.abc import Sequence

from distsent.errors import UserError
from distsent.formats.delimited.asked import Asked
from distsent.formats.delimited.evidence import Evidence
from distsent.formats.delimited.unusual import split_once
from distsent.formats.records import one_line, shorten


class Damaged(UserError):
    """Fields are quoted, but the quotes are not well-formed."""


def signs_of_quoting(asked: Asked, letters: Evidence) -> str:
    """Why quotes that can only be read as letters are hardly letters; empty if they may be."""
    quotes = letters.quotes
    if asked.has_header and quotes.names:
        return "the header's names stand in quotes"
    if quotes.doubled:
        return f"other fields ({quotes.doubled:,}) have quotes as csv writes them"
    if quotes.wrapped * 2 > letters.rows:
        return f"{quotes.wrapped:,} of {letters.rows:,} rows have fields in quotes"
    return ""


def damaged(asked: Asked, tried: Sequence[Evidence], sign: str) -> Damaged:
    """The error of such a file; `sign` says why its quotes are no letters."""
    letters, quoted = tried[0], tried[-1]
    fix = (
        "correct it"
        if letters.bad
        else 'correct it, or data.quoting = "none" takes quotes as letters'
    )
    return Damaged(f"{asked.name}, {first_fault(asked, quoted)}; {sign}; {fix}")


def wrong_names(asked: Asked, known: Sequence[Evidence]) -> UserError:
    """Names that are not as many as columns."""
    best = min(known, key=lambda e: e.bad)
    names = asked.options.names or ()
    found = f"{best.width} columns between {shorten(best.dialect.delimiter)}"
    return UserError(f"{asked.name}: data.names has {len(names)} names for {found}")


def unreadable(asked: Asked, tried: Sequence[Sequence[Evidence]], end: str) -> UserError:
    """The error of a file that no dialect fits, with the best one's first fault."""
    every = [e for found in tried for e in found]
    letters, quoted = tried[0][0], tried[0][-1]
    if letters is not quoted and (sign := signs_of_quoting(asked, letters)):
        return damaged(asked, tried[0], sign)
    best = max(every, key=lambda e: e.rows - e.bad)
    between = shorten(best.dialect.delimiter)
    fix = split_once(asked, best, end)
    fix = fix or "data.delimiter and data.quoting say how fields are separated"
    return UserError(f"{asked.name}, {first_fault(asked, best)}, read between {between}; {fix}")


def first_fault(asked: Asked, found: Evidence) -> str:
    """Row, line, and what is wrong there."""
    offset = 0 if asked.has_header else 1
    if error := found.malformed:
        row = found.malformed_row + offset
        where = f"row {row} (line {error.line})" if row else f"line {error.line}"
        return f"{where}: {error.reason} ({excerpt(error.lines[0].strip())})"
    row, line, width = found.first_bad
    return f"row {row + offset}: {wrong_width(width, found.row_width, line)}"


def excerpt(text: str) -> str:
    """The beginning of a line, with quotes as they are."""
    text = one_line(text.strip())
    return text if len(text) <= 40 else f"{text[:37]}..."


def wrong_width(width: int, expected: int, line: int) -> str:
    """What is wrong with a row of another number of fields."""
    fields = f"{width} field{'s' * (width != 1)}"
    return f"{fields} where the header has {expected} (line {line})"
