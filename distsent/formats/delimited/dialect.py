"""How the records of a delimited file are written, and the exact reading of a given dialect."""

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

# Longer ones are refused: behind a quote that never closes, all of a file would be one field
MAX_FIELD = 1 << 25
# In place of characters that the csv module would act on. Decoded text has no lone surrogates.
CR, LF, _DELIMITER, ESCAPED = map(chr, range(0xD800, 0xD804))
_ESCAPE = re.compile(r"\\(.)")
_NAMED = {"n": LF, "r": CR, "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
# (number of its first line, fields, its lines); the lists are valid until the next record
Record = tuple[int, list[str], list[str]]


@dataclass(frozen=True)
class Dialect:
    """Of csv, with delimiters of several characters, and two kinds of escapes."""

    delimiter: str = ","
    quotechar: str | None = '"'  # None: quotes are letters
    escapechar: str | None = None  # the character after it stands for itself, as in pandas
    escaped_quotes: bool = False  # \" is a quote within quotes; a lone backslash is a letter
    # "\n", which includes "\r\n", or "\r"; "\r\n" where others are text
    lineterminator: str = "\n"
    database: bool = False  # \n is a newline, \t a tab, as Postgres and MySQL write them


class Malformed(Exception):
    """Quotes that are not well-formed, in the record that begins in line `line`."""

    def __init__(self, reason: str, line: int, lines: list[str]) -> None:
        super().__init__(reason)
        self.reason, self.line, self.lines = reason, line, lines


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
        cut = _without_end(dialect)
        for number, line in enumerate(lines, 1):
            if body := cut(line):
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
        raise Malformed(_reason(str(error)), number, _shown(dialect)(taken, taken)) from None


def single(dialect: Dialect) -> str:
    """The one character that stands for the delimiter in hidden text."""
    return dialect.delimiter if len(dialect.delimiter) == 1 else _DELIMITER


def _without_end(dialect: Dialect) -> Callable[[str], str]:
    """Takes the line end off."""
    if dialect.lineterminator == "\r\n":
        return lambda line: line.removesuffix("\r\n")
    ends = "\r" if dialect.lineterminator == "\r" else "\r\n"
    return lambda line: line.rstrip(ends)


def _hidden(dialect: Dialect) -> Callable[[str], str]:
    """Puts placeholders into a line, so that csv splits at quotes, delimiters and ends alone."""
    strays = {"\r": "\n", "\n": "\r", "\r\n": "\r\n"}[dialect.lineterminator]
    one_stray, other_stray = strays[0], strays[-1]
    delimiter, one, cut = dialect.delimiter, single(dialect), _without_end(dialect)
    mysql_null = re.compile(rf"(^|{re.escape(one)})\\N(?={re.escape(one)}|[\r\n]*$)")

    def hide(line: str) -> str:
        if one_stray in line or other_stray in line:
            body = cut(line)
            end = line[len(body) :]
            for stray in strays:
                body = body.replace(stray, CR if stray == "\r" else LF)
            if dialect.escapechar and end == "\r\n" and _is_open(body, dialect.escapechar):
                body, end = f"{body[:-1]}{CR}{body[-1]}", ""  # both are text: csv adds "\n"
            line = body + end
        if one != delimiter:
            line = line.replace(delimiter, one)
        if "\\" in line:
            if dialect.escaped_quotes:
                line = line.replace('\\"', ESCAPED)
            if dialect.escaped_quotes or dialect.escapechar == "\\":
                line = mysql_null.sub(r"\1", line)
            if dialect.database:
                line = _ESCAPE.sub(lambda found: "\\" + _NAMED.get(found[1], found[1]), line)
        return line

    return hide


def _is_open(body: str, escapechar: str) -> bool:
    """Whether a line ends with an escape of its end."""
    return bool((len(body) - len(body.rstrip(escapechar))) % 2)


def _shown(dialect: Dialect) -> Callable[[list[str], list[str]], list[str]]:
    """Replaces the placeholders in the fields of a record by what they stand for."""
    both = dialect.database or dialect.lineterminator == "\r\n"
    marks = [(CR, "\r")] if both or dialect.lineterminator == "\n" else []
    marks += [(LF, "\n")] if both or not marks else []
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


def _reason(error: str) -> str:
    if "unexpected end" in error:
        return "a quote is never closed"
    if "field limit" in error:
        return f"a field of more than {MAX_FIELD:,} characters; is its quote ever closed?"
    return "text behind a closing quote" if "expected after" in error else error
