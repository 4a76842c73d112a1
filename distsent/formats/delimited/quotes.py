"""What the quotes in a file look like: those of a csv writer, or letters."""

import re
from collections import Counter
from collections.abc import Callable

from distsent.formats.delimited.dialect import ESCAPED, Dialect, single

FEW = 3  # rows: fewer are no evidence of a habit
_NUMBER = re.compile(r"\s*([-+]?[\d.,]+(e[-+]?\d+)?|\\N)?\s*", re.IGNORECASE)  # or nothing


class Quotes:
    """What quotes and backslashes in the records look like, under one dialect."""

    def __init__(self) -> None:
        self.names = False  # those of the first record stand in quotes that they do not need
        self.quoted = Counter[int]()  # rows, by column
        self.needless = Counter[int]()  # quoted without need
        self.unquoted_words = Counter[int]()  # in rows with quotes
        self.bare = 0  # rows with a quote inside an unquoted field
        self.rows = 0  # with any quote character
        self.first = 0  # line of the first row with a quoted field
        self.torn = 0  # fields on one line that hold a delimiter
        self.lines = 0  # of records over several lines
        self.lines_like_rows = 0  # those with as many delimiters as a row
        self.wrapped = 0  # quotes as letters: rows with a field that begins and ends with one
        self.doubled = 0  # quotes as letters: rows with a field as only a csv writer writes them
        self.opening = 0  # quotes as letters: rows with a field that begins with one
        self.escaped = 0  # records with a quote behind a backslash
        self.double_backslash = 0  # line of the first two backslashes

    def always(self, rows: int) -> set[int]:
        """Columns quoted in every row, but for numbers and empty fields."""
        unquoted = {c for c, n in self.unquoted_words.items() if n} if self.rows == rows else None
        if rows < FEW or unquoted is None:
            return set()
        return {column for column in self.quoted if column not in unquoted}

    def as_written(self, rows: int) -> bool:
        """A csv writer would quote these fields and no others: where needed, or whole columns."""
        return not self.bare and set(self.needless) <= self.always(rows)

    def swallow_rows(self) -> bool:
        """Two quotes far apart seem to make one row of many, and quotes explain nothing else."""
        return not self.torn and bool(self.lines) and 4 * self.lines_like_rows >= 3 * self.lines


# Looks at the fields of one record, its lines, the number of the first one, and if it is the first
Tally = Callable[[Quotes, list[str], list[str], int, bool], None]


def tally_of(dialect: Dialect) -> Tally:
    """What looks at each record with quotes, as `parse_hidden` gives it."""
    if dialect.quotechar is None:
        return _tally_letters
    if dialect.escapechar:
        return _escaped_tally(dialect)
    quote, delimiter = dialect.quotechar, single(dialect)
    # As csv writers judge: outer blanks and nothing at all are quoted by some
    special = re.escape(delimiter + quote) + f"\r\n{ESCAPED}"
    needs = re.compile(rf"[{special}\ud800-\ud803]|^\s|\s$|^$").search

    def tally(quotes: Quotes, fields: list[str], raw: list[str], line: int, first: bool) -> None:
        text, at, bare = "".join(raw), 0, False
        for column, value in enumerate(fields):
            quoted = text.startswith(quote, at)
            at += len(value) + len(delimiter)
            if quoted:
                at += 2 + value.count(quote)
                quotes.first = quotes.first or line
                quotes.torn += len(raw) == 1 and delimiter in value
                if not needs(value):
                    if first:
                        quotes.names = True
                    else:
                        quotes.needless[column] += 1
                quotes.quoted[column] += 1
                bare = bare or (dialect.escaped_quotes and quote in value)  # doubled quotes, too
            else:
                bare = bare or quote in value or ESCAPED in value
                if not first and not _NUMBER.fullmatch(value):
                    quotes.unquoted_words[column] += 1
        quotes.bare += bare
        quotes.rows += not first
        if len(raw) > 1:
            quotes.lines += len(raw)
            quotes.lines_like_rows += sum(x.count(delimiter) == len(fields) - 1 for x in raw)
        quotes.escaped += '\\"' in text
        if dialect.escaped_quotes and not quotes.double_backslash and "\\\\" in text:
            quotes.double_backslash = line

    return tally


def _escaped_tally(dialect: Dialect) -> Tally:
    """With a given escape character: which fields are quoted cannot be seen any more."""
    quote, delimiter = dialect.quotechar or "", single(dialect)

    def tally(quotes: Quotes, fields: list[str], raw: list[str], line: int, first: bool) -> None:
        text = "".join(raw)
        if text.startswith(quote) or delimiter + quote in text:
            quotes.first = quotes.first or line
            quotes.quoted[0] += 1
            quotes.needless[0] += 1
        quotes.escaped += f"{dialect.escapechar}{quote}" in text

    return tally


def _tally_letters(
    quotes: Quotes, fields: list[str], raw: list[str], line: int, first: bool
) -> None:
    """Where quotes are letters: fields that look as if they were not."""
    inside = [value[1:-1] for value in fields if len(value) > 1 and value[0] == value[-1] == '"']
    if first:
        quotes.names = bool(inside)
        return
    quotes.rows += 1
    quotes.wrapped += bool(inside)
    quotes.opening += any(value.startswith('"') for value in fields)
    quotes.doubled += any(map(_only_escaped_quotes, inside))


def _only_escaped_quotes(inside: str) -> bool:
    rest = inside.replace('""', "").replace('\\"', "")
    return not inside or ('"' in inside and '"' not in rest)
