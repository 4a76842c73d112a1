"""Which dialect a delimited file has: decided from all of it by evidence, or refused."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from distsent.errors import UserError
from distsent.formats.dialect import Dialect
from distsent.formats.evidence import Evidence, Lines, examine
from distsent.formats.options import FileOptions
from distsent.formats.records import one_line, shorten

# Those of a group are tried only where none of the groups before it fits
COMMON, RARE = ",;\t|", "@~^\x01"  # delimiters
HEAD = 100  # lines of a header at most


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


class Damaged(UserError):
    """Fields are quoted, but the quotes are not well-formed."""


def detect(asked: Asked, lineterminators: Sequence[str]) -> Evidence:
    """The one reading that the file allows. Raises UserError for none, and for several.

    Rows with another number of fields than the rest are no reason to refuse a file whose quotes
    are well-formed: what rows there are is known.
    """
    errors: list[UserError] = []
    for end in lineterminators:
        try:
            found = _valid_reading(asked, end)
            if found and not _torn(found, lineterminators):
                return _checked(asked, found, lineterminators)
        except UserError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return best_reading(asked, lineterminators[0])


def _checked(asked: Asked, found: Evidence, lineterminators: Sequence[str]) -> Evidence:
    """The reading, unless it leaves a doubt."""
    others = [end for end in lineterminators if end != found.dialect.lineterminator]
    # A header has no stray line ends, but the first row of data may have one
    rivals = [] if asked.has_header else [_valid_reading(asked, end) for end in others]
    if any(e and e.rows and not _torn(e, lineterminators) for e in rivals):
        why = "lines may end with a carriage return or with a line feed, as both occur"
        raise UserError(f"{asked.name}: {why}; write one of them")
    if found.dialect.escaped_quotes and (line := found.quotes.double_backslash):
        why = "two backslashes, where others stand before quotes, may be one or two"
        fix = 'data.escapechar = "\\\\" reads a backslash and what follows it as what follows it'
        raise UserError(f"{asked.name}, line {line}: {why}; {fix}")
    return found


def _torn(found: Evidence, lineterminators: Sequence[str]) -> bool:
    """Whether carriage returns seem to end lines, though line feeds are likelier and inside one."""
    by_cr = found.dialect.lineterminator == "\r"
    return by_cr and found.line_ends and lineterminators[0] == "\n"


def _valid_reading(asked: Asked, end: str) -> Evidence | None:
    """The reading that gives all rows the same number of fields, if there is one."""
    tried = [_readings(asked, mark, end) for mark in _delimiters(asked, end)]
    valid = [[e for e in found if e.valid and asked.fits(e)] for found in tried]
    chosen, damage = [], list[Damaged]()
    for some, found in zip(valid, tried, strict=True):
        try:
            chosen += [_choose(asked, some, found)] if some else []
        except Damaged as error:
            damage.append(error)
    if damage and not chosen:
        raise damage[0]
    return _one_delimiter(asked, chosen) if chosen else None


def _delimiters(asked: Asked, end: str) -> list[str]:
    """The candidates: they occur in the first row. Without any, there is one column."""
    if asked.options.delimiter != "auto":
        return [asked.options.delimiter]
    head = _head((asked.lines if end == "\n" else asked.lines_by_cr)())
    common = [mark for mark in COMMON if mark in head]
    spaced = [f"{m} " for m in common if head.count(m) == head.count(f"{m} ")]
    rare = [mark for mark in RARE if mark in head and all(head.split(mark))]
    return [*spaced, *common, *rare] if common else [asked.default, *rare]


def _head(lines: Iterable[str]) -> str:
    """The first line with anything in it, to the end of a field in quotes that begins there."""
    head = ""
    for line in islice(lines, HEAD):
        head += line if head or line.strip() else ""
        if head and head.replace('\\"', "").count('"') % 2 == 0:
            return head.rstrip("\r\n")
    return head.partition("\n")[0]


def _readings(asked: Asked, delimiter: str, end: str, patient: bool = False) -> list[Evidence]:
    """The evidence of each kind of quotes and escapes that the keys leave open."""
    options = asked.options
    lines = asked.lines if end == "\n" else asked.lines_by_cr
    quote = '"' if options.quoting in ("auto", "csv") else options.quoting
    escape = None if options.escapechar == quote else options.escapechar
    letters = Dialect(delimiter, None, escape, lineterminator=end)
    found = []
    if options.quoting in ("auto", "none"):
        found.append(examine(lines, letters, asked.has_header, patient))
    if options.quoting != "none":
        quoted = replace(letters, quotechar=quote)
        found.append(examine(lines, quoted, asked.has_header, patient))
        if found[-1].quotes.escaped and not options.escapechar:
            escaped = replace(quoted, escaped_quotes=True)
            found.append(examine(lines, escaped, asked.has_header, patient))
            # A writer that escapes quotes neither doubles them nor leaves them outside of quotes
            if found[-1].quotes.bare:
                found.pop()
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
    counts = [e.rows + (not asked.has_header) for e in (quoted, letters)]
    raise UserError(
        f"{asked.name}: quotes may be letters or stand around fields (from line {quotes.first} "
        f'on); data.quoting = "csv" reads {counts[0]:,} rows, "none" {counts[1]:,} rows with '
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


def _damaged(asked: Asked, tried: Sequence[Evidence], sign: str) -> Damaged:
    """The error of such a file; `sign` says why its quotes are no letters."""
    letters, quoted = tried[0], tried[-1]
    fix = (
        "correct it"
        if letters.bad
        else 'correct it, or data.quoting = "none" takes quotes as letters'
    )
    return Damaged(f"{asked.name}, {_first_fault(asked, quoted)}; {sign}; {fix}")


def _first_fault(asked: Asked, found: Evidence) -> str:
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


def _one_delimiter(asked: Asked, chosen: Sequence[Evidence]) -> Evidence:
    """The reading whose delimiter is right."""
    by_mark = {e.dialect.delimiter: e for e in chosen}
    several = any(e.width > 1 for e in chosen)
    quoted = any(e.dialect.quotechar and e.quotes.quoted for e in chosen)
    for mark, found in [*by_mark.items()]:
        # A blank behind every delimiter belongs to it
        spaced = f"{mark} " in by_mark
        # Quotes around fields are better evidence than letters that separate parts of them
        torn = quoted and found.dialect.quotechar is None and found.quotes.opening
        if spaced or torn or (several and found.width == 1):
            del by_mark[mark]
    if len(by_mark) == 1:
        return next(iter(by_mark.values()))
    if asked.default == "\t" and "\t" in by_mark:  # the name of the file says it
        return by_mark["\t"]
    if (used := str(asked.recorded.get("delimiter"))) in by_mark:
        return by_mark[used]
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
    tried = [_readings(asked, mark, end, patient=True) for mark in _delimiters(asked, end)]
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
    letters, quoted = tried[0][0], tried[0][-1]
    if letters is not quoted and (sign := _signs_of_quoting(asked, letters)):
        return _damaged(asked, tried[0], sign)
    best = max(every, key=lambda e: e.rows - e.bad)
    between = shorten(best.dialect.delimiter)
    fix = "data.delimiter and data.quoting say how fields are separated"
    return UserError(f"{asked.name}, {_first_fault(asked, best)}, read between {between}; {fix}")
