"""Which of several readings of a delimited file is right, where all of them are possible."""

import math
from collections.abc import Sequence
from itertools import islice

from distsent.errors import UserError
from distsent.formats.column_choice import SAMPLE, Column, label_candidates
from distsent.formats.delimited.asked import Asked
from distsent.formats.delimited.dialect import parse
from distsent.formats.delimited.evidence import Evidence
from distsent.formats.delimited.faults import damaged, signs_of_quoting
from distsent.formats.delimited.quotes import FEW
from distsent.formats.records import shorten


def choose(asked: Asked, valid: Sequence[Evidence], tried: Sequence[Evidence]) -> Evidence:
    """One of the valid readings with one delimiter."""
    letters = next((e for e in valid if e.dialect.quotechar is None), None)
    quoted = [e for e in valid if e.dialect.quotechar is not None]
    if len(quoted) > 1:
        quoted = [_plain_or_escaped(asked, *quoted)]
    if not quoted and letters:
        if asked.options.quoting == "auto" and (sign := signs_of_quoting(asked, letters)):
            raise damaged(asked, tried, sign)
        return letters
    if letters and not quoted[0].quotes.quoted:
        return letters
    if not letters:
        letters = tried[0]
        if letters.dialect.quotechar is not None or not quoted[0].quotes.swallow_rows():
            return quoted[0]
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
    likely = ["none", "csv"]
    if 2 * max(quotes.quoted.values()) > quoted.rows:
        likely.reverse()
    raise UserError(
        f"{asked.name}: quotes may be letters or stand around fields (from line {quotes.first} "
        f'on); data.quoting = "csv" reads {counts[0]:,} rows, "none" {counts[1]:,} rows with '
        "quotes in the texts",
        fix={"data.quoting": likely[0]},
        others=[{"data.quoting": likely[1]}],
    )


def one_delimiter(asked: Asked, chosen: Sequence[Evidence]) -> Evidence:
    """The reading whose delimiter is right."""
    several = any(e.width > 1 for e in chosen)
    by_mark = {e.dialect.delimiter: e for e in chosen if e.width > 1 or not several}
    for mark in [*by_mark]:
        if any(mark in other.strip() != mark for other in by_mark):
            del by_mark[mark]  # a part of a longer one: of |||
    for mark in [*by_mark]:
        if spaced := next((other for other in by_mark if other.strip(" ") == mark != other), ""):
            # Blanks around every delimiter belong to it: in a header, before quotes, or if many
            before_quotes = by_mark[spaced].quotes.quoted > by_mark[mark].quotes.quoted
            enough = asked.has_header or before_quotes or by_mark[mark].rows >= FEW
            del by_mark[mark if enough else spaced]
    quoted = any(e.dialect.quotechar and e.quotes.quoted for e in by_mark.values())
    for mark, found in [*by_mark.items()]:
        # Quotes around fields are better evidence than letters that separate parts of them
        if quoted and found.dialect.quotechar is None and found.quotes.opening:
            del by_mark[mark]
    if len(by_mark) == 1:
        return next(iter(by_mark.values()))
    if asked.default == "\t" and "\t" in by_mark:  # the name of the file says it
        return by_mark["\t"]
    if (used := str(asked.recorded.get("delimiter"))) in by_mark:
        return by_mark[used]
    likely = sorted(by_mark, key=lambda mark: _label_words(asked, by_mark[mark]))
    marks = " or ".join(map(shorten, likely))
    keys = [{"data.delimiter": mark} for mark in likely]
    raise UserError(
        f"{asked.name}: more than one delimiter gives all rows the same number of fields; "
        f"data.delimiter = {marks} says which one is right",
        fix=keys[0],
        others=keys[1:],
    )


def _label_words(asked: Asked, found: Evidence) -> float:
    """How long the values of the likeliest label are: a wrong delimiter leaves parts of texts."""
    columns = [Column(str(place)) for place in range(found.width)]
    records = parse(asked.lines(found.dialect.lineterminator), found.dialect)
    for _, fields, _ in islice(records, SAMPLE):
        for column, value in zip(columns, fields, strict=False):
            column.add([value])
    labels = [one.name for one in label_candidates(columns)[:1]]
    return next((c.words for c in columns if c.name in labels), math.inf)
