"""Which dialect a delimited file has: decided from all of it by evidence, or refused."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from distsent.errors import UserError
from distsent.formats.dialect import Dialect
from distsent.formats.evidence import Evidence, Lines, examine
from distsent.formats.options import FileOptions
from distsent.formats.records import one_line, shorten

# Those of a group are tried only where none of the groups before it fits
DELIMITERS = (",;\t|", "@~^\x01")


@dataclass(frozen=True)
class Asked:
    """What the keys say of a file, beside its lines."""

    name: str
    lines: Lines  # between "\n"
    lines_by_cr: Lines  # between "\r"
    options: FileOptions
    default: str  # the delimiter that the file's name promises
    recorded: Mapping[str, Any]  # the keys that read the files of the run: they decide in doubt

    @property
    def has_header(self) -> bool:
        """The first row is a header for sure. Beside given names there may be one as well."""
        options = self.options
        return options.header is True or not (options.names or options.header is False)

    def fits(self, found: Evidence) -> bool:
        """Whether given names are as many as the columns."""
        return not self.options.names or len(self.options.names) == found.width


def detect(asked: Asked, lineterminators: Sequence[str]) -> Evidence:
    """The one reading that the file allows. Raises UserError for none, and for several.

    Rows with another number of fields than the rest are no reason to refuse a file whose quotes
    are well-formed: what rows there are is known.
    """
    for end in lineterminators:
        for delimiters in _groups(asked, end):
            tried = [_readings(asked, mark, end) for mark in delimiters]
            valid = [[e for e in found if e.valid and asked.fits(e)] for found in tried]
            chosen = [
                _choose(asked, some, found)
                for some, found in zip(valid, tried, strict=True)
                if some
            ]
            if chosen:
                return _one_delimiter(asked, chosen)
    return best_reading(asked, lineterminators[-1])


def _groups(asked: Asked, end: str) -> list[list[str]]:
    """Delimiters, by groups."""
    if asked.options.delimiter != "auto":
        return [[asked.options.delimiter]]
    lines = asked.lines if end == "\n" else asked.lines_by_cr
    head = next((line for line in lines() if line.strip()), "").rstrip("\r\n")
    groups = []
    for marks in DELIMITERS:
        present = [mark for mark in marks if mark in head]
        spaced = [f"{m} " for m in present if head.count(m) == head.count(f"{m} ")]
        groups.append([*spaced, *present])
    return [*filter(None, groups)] if groups[0] else [*filter(None, groups), [asked.default]]


def _readings(asked: Asked, delimiter: str, end: str, patient: bool = False) -> list[Evidence]:
    """The evidence of each kind of quotes and escapes that the keys leave open."""
    options = asked.options
    lines = asked.lines if end == "\n" else asked.lines_by_cr
    quote = '"' if options.quoting in ("auto", "csv") else options.quoting
    escape = None if options.escapechar == quote else options.escapechar
    letters = Dialect(delimiter, None, escape, lineterminator=end)
    found = []
    if options.quoting in ("auto", "none"):
        found.append(examine(lines, letters, patient))
    if options.quoting != "none":
        quoted = replace(letters, quotechar=quote)
        found.append(examine(lines, quoted, patient))
        if found[-1].quotes.escaped and not options.escapechar:
            escaped = examine(lines, replace(quoted, escaped_quotes=True), patient)
            # A writer that escapes quotes neither doubles them nor leaves them outside of quotes
            if not escaped.quotes.bare:
                found.append(escaped)
    return found


def _choose(asked: Asked, valid: Sequence[Evidence], tried: Sequence[Evidence]) -> Evidence:
    """One of the valid readings with one delimiter."""
    letters = next((e for e in valid if e.dialect.quotechar is None), None)
    quoted = [e for e in valid if e.dialect.quotechar is not None]
    if len(quoted) > 1:
        quoted = [_plain_or_escaped(asked, *quoted)]
    if not quoted and letters:
        if asked.options.quoting == "auto" and (sign := _signs_of_quoting(asked, letters)):
            raise _damaged(asked, tried, sign)
        return letters
    if not letters or not quoted[0].quotes.quoted:
        return letters or quoted[0]
    return _quoted_or_letters(asked, quoted[0], letters)


def _plain_or_escaped(asked: Asked, plain: Evidence, escaped: Evidence) -> Evidence:
    """Whether a backslash before a quote is a letter."""
    written = [e for e in (plain, escaped) if e.quotes.as_written(e.rows)]
    if len(written) == 1:
        return written[0]
    if "escapechar" in asked.recorded:
        return escaped
    raise UserError(
        f"{asked.name}: a backslash before a quote may be a letter ({plain.rows:,} rows) or escape "
        f"the quote ({escaped.rows:,} rows); data.escapechar = '\"' or '\\' says which",
        fix={"data.escapechar": "\\"},
        others=[{"data.escapechar": '"'}],
    )


def _quoted_or_letters(asked: Asked, quoted: Evidence, letters: Evidence) -> Evidence:
    """Both are valid and differ."""
    quotes = quoted.quotes
    if asked.has_header and quotes.names:
        return quoted
    if quoted.dialect.escapechar and quotes.escaped:
        return quoted
    if quotes.always(quoted.rows):
        return quoted
    if quoted.rows == letters.rows and quotes.as_written(quoted.rows):
        return quoted
    if wanted := asked.recorded.get("quoting"):
        return letters if wanted == "none" else quoted
    raise UserError(
        f"{asked.name}: quotes may be letters or stand around fields (from line {quotes.first} "
        f'on); data.quoting = "csv" reads {quoted.rows:,} rows, "none" {letters.rows:,} rows with '
        "quotes in the texts",
        fix={"data.quoting": "none"},
        others=[{"data.quoting": "csv"}],
    )


def _signs_of_quoting(asked: Asked, letters: Evidence) -> str:
    """Why quotes that can only be read as letters are hardly letters; empty if they may be."""
    quotes = letters.quotes
    if asked.has_header and quotes.names:
        return "the header's names stand in quotes"
    if quotes.doubled:
        return f"other fields ({quotes.doubled:,}) have quotes as csv writes them"
    if quotes.wrapped * 2 > letters.rows:
        return f"{quotes.wrapped:,} of {letters.rows:,} rows have fields in quotes"
    return ""


def _damaged(asked: Asked, tried: Sequence[Evidence], sign: str) -> UserError:
    """The error of a file of quoted fields, in which quotes are not well-formed."""
    letters, quoted = tried[:2]
    fix = (
        "correct it"
        if letters.bad
        else 'correct it, or data.quoting = "none" takes quotes as letters'
    )
    return UserError(f"{asked.name}, {_first_fault(asked, quoted)}; {sign}; {fix}")


def _first_fault(asked: Asked, found: Evidence) -> str:
    """Row, line, and what is wrong there."""
    offset = 0 if asked.has_header else 1
    if error := found.malformed:
        row = found.malformed_row + offset
        where = f"row {row} (line {error.line})" if row else f"line {error.line}"
        return f"{where}: {error.reason} ({excerpt(error.text)})"
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


def _one_delimiter(asked: Asked, chosen: Sequence[Evidence]) -> Evidence:
    """The reading whose delimiter is right. A blank behind every delimiter belongs to it."""
    by_mark = {e.dialect.delimiter: e for e in chosen}
    for mark in [*by_mark]:
        if f"{mark} " in by_mark:
            del by_mark[mark]
    if len(by_mark) == 1:
        return next(iter(by_mark.values()))
    if asked.default == "\t" and "\t" in by_mark:  # the name of the file says it
        return by_mark["\t"]
    if asked.recorded.get("delimiter") in by_mark:
        return by_mark[str(asked.recorded["delimiter"])]
    marks = " or ".join(shorten(mark) for mark in by_mark)
    keys = [{"data.delimiter": mark} for mark in by_mark]
    raise UserError(
        f"{asked.name}: more than one delimiter gives all rows the same number of fields; "
        f"data.delimiter = {marks} says which one is right",
        fix=keys[0],
        others=keys[1:],
    )


def best_reading(asked: Asked, end: str) -> Evidence:
    """The reading with the fewest bad rows, where no reading is without. Raises UserError."""
    tried = [
        _readings(asked, mark, end, patient=True)
        for delimiters in _groups(asked, end)
        for mark in delimiters
    ]
    known = [e for found in tried for e in found if not e.malformed]
    if not any(e.width or e.malformed for found in tried for e in found):
        return known[0]  # an empty file
    if asked.options.names and known and not any(map(asked.fits, known)):
        raise _wrong_names(asked, known)
    known = [e for e in known if asked.fits(e)]
    least = min((e.bad for e in known), default=0)
    rivals = [e for e in known if e.bad <= 2 * least]
    first = next(iter(rivals), None)
    if not first or any(2 * e.bad > e.rows for e in rivals):
        raise _unreadable(asked, tried)
    found = next(some for some in tried if first in some)
    rivals = [e for e in rivals if e in found]
    best = _choose(asked, rivals, found)
    if best.dialect.quotechar is None and best.quotes.opening and asked.options.quoting == "auto":
        raise _damaged(asked, found, f"with quotes as letters, {_first_fault(asked, best)}")
    return best


def _wrong_names(asked: Asked, known: Sequence[Evidence]) -> UserError:
    """Names that are not as many as columns."""
    best = min(known, key=lambda e: e.bad)
    names = asked.options.names or ()
    found = f"{best.width} columns between {shorten(best.dialect.delimiter)}"
    return UserError(f"{asked.name}: data.names has {len(names)} names for {found}")


def _unreadable(asked: Asked, tried: Sequence[Sequence[Evidence]]) -> UserError:
    """The error of a file that no dialect fits, with the best one's first fault."""
    every = [e for found in tried for e in found]
    best = min(every, key=lambda e: (bool(e.malformed), e.bad))
    between = shorten(best.dialect.delimiter)
    fix = "data.delimiter and data.quoting say how fields are separated"
    return UserError(f"{asked.name}, {_first_fault(asked, best)}, read between {between}; {fix}")
