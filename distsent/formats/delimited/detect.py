"""Which dialect a delimited file has: decided from all of it by evidence, or refused."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from distsent.errors import UserError
from distsent.formats.delimited.asked import HEAD, Asked
from distsent.formats.delimited.choose import choose, one_delimiter
from distsent.formats.delimited.dialect import Dialect, single
from distsent.formats.delimited.evidence import Evidence, examine
from distsent.formats.delimited.faults import Damaged, damaged, first_fault, unreadable, wrong_names
from distsent.formats.delimited.unusual import signs, way_out

_ESCAPED = r"[\\NnrtbfvZ0]"  # what databases write behind a backslash
COMMON, RARE = ",;\t|", "@~^\x01"  # delimiters
_QUOTED = re.compile(r'"[^"]*"')
_BARS = re.compile(r"\s?\|.*\|\s?")  # ||, |||: in "good!|pos" the ! belongs to the text


def detect(asked: Asked) -> Evidence:
    """The one reading that the file allows. Raises UserError for none, and for several.

    Rows with another number of fields than the rest are no reason to refuse a file whose quotes
    are well-formed: what rows there are is known.
    """
    errors: list[UserError] = []
    lineterminators = asked.ends
    for end in lineterminators:
        try:
            found = _valid_reading(asked, end)
            wide = found and (found.width > 1 or asked.one_column)
            if found and wide and not _torn(found, lineterminators):
                return _checked(asked, found, lineterminators)
        except UserError as error:
            errors.append(error)
    damage = [error for error in errors if isinstance(error, Damaged)]
    for end in lineterminators if errors == damage else ():
        head = _head(asked.lines(end), asked.options.escapechar)
        if known := way_out(asked, head, end, _valid_reading, bool(damage)):
            raise known
    if errors:
        raise errors[0]
    return _best_reading(asked, lineterminators[0])


def _checked(asked: Asked, found: Evidence, lineterminators: Sequence[str]) -> Evidence:
    """The reading, unless it leaves a doubt."""
    others = [end for end in lineterminators if end not in (found.dialect.lineterminator, "\r\n")]
    # A header has no stray line ends, but the first row of data may have one
    rivals = [] if asked.has_header else [_valid_reading(asked, end) for end in others]
    if any(rivals):
        why = "lines may end with a carriage return or with a line feed, as both occur"
        raise UserError(f"{asked.name}: {why}; write one of them")
    if found.dialect.escaped_quotes and (line := found.quotes.double_backslash):
        why = "two backslashes, where others stand before quotes, may be one or two"
        fix = 'data.escapechar = "\\\\" reads a backslash and what follows it as what follows it'
        raise UserError(f"{asked.name}, line {line}: {why}; {fix}", fix={"data.escapechar": "\\"})
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
            chosen += [choose(asked, some, found)] if some else []
        except Damaged as error:
            damage.append(error)
    if damage and not chosen:
        raise damage[0]
    return one_delimiter(asked, chosen) if chosen else None


def _best_reading(asked: Asked, end: str) -> Evidence:
    """The reading with the fewest bad rows, where no reading is without. Raises UserError."""
    tried = [_readings(asked, mark, end, patient=True) for mark in _delimiters(asked, end)]
    known = [e for found in tried for e in found if not e.malformed]
    if not any(e.width or e.malformed for found in tried for e in found):
        return known[0]  # an empty file
    if asked.options.names and known and not any(map(asked.fits, known)):
        raise wrong_names(asked, known)
    known = [e for e in known if asked.fits(e)]
    least = min((e.bad for e in known), default=0)
    rivals = [e for e in known if e.bad <= 2 * least]
    first = next(iter(rivals), None)
    if not first or any(2 * e.bad > e.rows for e in rivals):
        raise unreadable(asked, tried, end)
    found = next(some for some in tried if first in some)
    rivals = [e for e in rivals if e in found]
    best = choose(asked, rivals, found)
    if best.dialect.quotechar is None and best.quotes.opening and asked.options.quoting == "auto":
        raise damaged(asked, found, f"with quotes as letters, {first_fault(asked, best)}")
    return best


def _readings(asked: Asked, delimiter: str, end: str, patient: bool = False) -> list[Evidence]:
    """The evidence of each kind of quotes and escapes that the keys leave open."""
    options = asked.options
    quote = '"' if options.quoting in ("auto", "csv") else options.quoting
    escape = None if options.escapechar == quote else options.escapechar
    letters = Dialect(delimiter, None, escape, lineterminator=end)
    found = []
    if options.quoting in ("auto", "none"):
        found.append(examine(asked.lines(end), letters, asked.has_header, patient))
    if options.quoting != "none":
        quoted = replace(letters, quotechar=quote)
        found.append(examine(asked.lines(end), quoted, asked.has_header, patient))
        if found[-1].quotes.escaped and not options.escapechar:
            escaped = replace(quoted, escaped_quotes=True)
            found.append(examine(asked.lines(end), escaped, asked.has_header, patient))
            # A writer that escapes quotes neither doubles them nor leaves them outside of quotes
            if found[-1].quotes.bare:
                found.pop()
    return found


def _delimiters(asked: Asked, end: str) -> list[str]:
    """The candidates: they occur in the first row. Without any, there is one column."""
    if asked.options.delimiter != "auto":
        return [asked.options.delimiter]
    head = _head(asked.lines(end), asked.options.escapechar)
    common = [mark for mark in COMMON if mark in head]
    spaced = [f"{m} " for m in common if all(head.split(f"{m} "))]
    outside = _QUOTED.sub("", head)
    spaced = [mark for mark in spaced if outside.count(mark) == outside.count(mark[0])]
    rare = [mark for mark in RARE if mark in head and all(head.split(mark))]
    rare += filter(_BARS.fullmatch, signs(head))
    return [*spaced, *common, *rare] if common else [asked.default, *rare]


def _head(lines: Iterable[str], escapechar: str | None) -> str:
    """The first line with anything in it, to the end of what is quoted or escaped there."""
    head = first = ""
    for line in islice(lines, HEAD):
        head += line if head or line.strip() else ""
        if not head or (escapechar and head.rstrip("\r\n").endswith(escapechar)):
            continue
        first = first or head
        if head.replace('\\"', "").count('"') % 2 == 0:
            return head.rstrip("\r\n")
    return first.rstrip("\r\n")  # a quote that never closes is a letter


def as_database(asked: Asked, found: Evidence) -> Evidence | None:
    """The reading with the escapes of Postgres and MySQL, if a file with their nulls has them."""
    dialect = found.dialect
    if dialect.quotechar or dialect.escapechar or asked.options.escapechar:
        return None
    other = _ESCAPED[:-1] + re.escape(single(dialect)) + "]"
    escapes = [
        x for line in asked.lines(dialect.lineterminator) for x in re.findall(r"\\(.?)", line)
    ]
    if not {*escapes} - {"N"} or not all(re.fullmatch(other, x) for x in escapes):
        return None
    database = replace(dialect, escapechar="\\", database=True)
    again = examine(asked.lines(dialect.lineterminator), database, asked.has_header)
    return again if again.valid and again.rows == found.rows else None
