"""How the records of a delimited file are written, and the exact reading of a given dialect."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Longer ones are refused: behind a quote that never closes, all of a file would be one field
MAX_FIELD = 1 << 25
# In place of characters that the csv module would act on. Decoded text has no lone surrogates.
_CR, _LF, _DELIMITER, ESCAPED = map(chr, range(0xD800, 0xD804))
_BEFORE_QUOTE = re.compile(r'(\\+)"')
# (number of its first line, fields, its lines); the lists are valid until the next record
Record = tuple[int, list[str], list[str]]


@dataclass(frozen=True)
class Dialect:
    """Of csv, with delimiters of several characters, and two kinds of escapes."""

    delimiter: str = ","
    quotechar: str | None = '"'  # None: quotes are letters
    escapechar: str | None = None  # the character after it stands for itself, as in pandas
    escaped_quotes: bool = False  # \" is a quote within quotes; other backslashes are letters
    lineterminator: str = "\n"  # or "\r"; "\n" includes "\r\n"


class Malformed(Exception):
    """Quotes that are not well-formed, in the record that begins in line `line`."""

    def __init__(self, reason: str, line: int, text: str) -> None:
        super().__init__(reason)
        self.reason, self.line, self.text = reason, line, text


def parse(lines: Iterable[str], dialect: Dialect) -> Iterator[Record]:
    """The records but blank lines. Raises Malformed. Unquoted `\\N` is MySQL's null: empty."""
    show = _shown(dialect)
    for line, fields, raw in parse_hidden(lines, dialect):
        if dialect.quotechar is None and not dialect.escapechar:
            yield line, fields, raw
        else:
            yield line, show(fields, raw), raw


def parse_hidden(lines: Iterable[str], dialect: Dialect) -> Iterator[Record]:
    """As `parse`, with placeholders in fields and lines."""
    if dialect.quotechar is None and not dialect.escapechar:
        for number, line in enumerate(lines, 1):
            if body := line.rstrip("\r\n"):
                yield number, body.split(dialect.delimiter), [line]
        return
    hide, number = _hidden(dialect), 1
    taken: list[str] = []

    def take() -> Iterator[str]:
        for line in lines:
            taken.append(hide(line))
            yield taken[-1]

    csv.field_size_limit(MAX_FIELD)
    reader = csv.reader(
        take(),
        delimiter=single(dialect),
        quotechar=dialect.quotechar or '"',
        quoting=csv.QUOTE_NONE if dialect.quotechar is None else csv.QUOTE_MINIMAL,
        escapechar=dialect.escapechar,
        strict=True,
    )
    try:
        for fields in reader:
            if fields:
                yield number, fields, taken
            number += len(taken)
            taken.clear()
    except csv.Error as error:
        text = _shown_text(taken[0], dialect) if taken else ""
        raise Malformed(_reason(str(error)), number, text) from None


def single(dialect: Dialect) -> str:
    """The one character that stands for the delimiter in hidden text."""
    return dialect.delimiter if len(dialect.delimiter) == 1 else _DELIMITER


def _hidden(dialect: Dialect) -> Callable[[str], str]:
    """Puts placeholders into a line, so that csv splits at quotes, delimiters and ends alone."""
    stray, mark = ("\r", _CR) if dialect.lineterminator == "\n" else ("\n", _LF)
    delimiter, one = dialect.delimiter, single(dialect)
    mysql_null = re.compile(rf"(^|{re.escape(one)})\\N(?={re.escape(one)}|[\r\n]*$)")

    def hide(line: str) -> str:
        if stray in line:
            body = line.rstrip("\r\n")
            line = body.replace(stray, mark) + line[len(body) :]
        if one != delimiter:
            line = line.replace(delimiter, one)
        if "\\" in line:
            if dialect.escaped_quotes:
                line = _BEFORE_QUOTE.sub(_unescaped, line)
            if dialect.escaped_quotes or dialect.escapechar == "\\":
                line = mysql_null.sub(r"\1", line)
        return line

    return hide


def _unescaped(found: re.Match[str]) -> str:
    count = len(found[1])
    return "\\" * (count // 2) + (ESCAPED if count % 2 else '"')


def _shown(dialect: Dialect) -> Callable[[list[str], list[str]], list[str]]:
    """Replaces the placeholders in the fields of a record by what they stand for."""
    marks = [(_CR, "\r") if dialect.lineterminator == "\n" else (_LF, "\n")]
    if single(dialect) == _DELIMITER:
        marks.append((_DELIMITER, dialect.delimiter))
    if dialect.escaped_quotes:
        marks.append((ESCAPED, '"'))

    def show(fields: list[str], raw: list[str]) -> list[str]:
        if all(map(str.isascii, raw)):
            return fields
        for mark, text in marks:
            fields = [field.replace(mark, text) for field in fields]
        return fields

    return show


def _shown_text(line: str, dialect: Dialect) -> str:
    return _shown(dialect)([line], [line])[0]


def _reason(error: str) -> str:
    if "unexpected end" in error:
        return "a quote is never closed"
    if "field limit" in error:
        return f"a field of more than {MAX_FIELD:,} characters; is its quote ever closed?"
    return "text behind a closing quote" if "expected after" in error else error
