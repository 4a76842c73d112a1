"""What a file reader returns: records, and one line for everything that is wrong with them."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from distsent.errors import UserError

_UNDECODABLE = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape keeps
_SURROGATE = re.compile("[\ud800-\udfff]")


class Reader(AbstractContextManager["Reader", None]):
    """The rows of one file but header and blank lines. Raises UserError if it cannot be read.

    A bad row is a record with an error. If `strict`, it raises UserError with file and row
    instead; otherwise a csv line with stray quotes is read without regard to quotes.
    """

    newline: str | None = None  # as for open()
    columns: list[str] | None = None  # None: there are no rows, or all are bare texts

    def __init__(self, path: Path, name: str, strict: bool = False) -> None:
        self.path, self.name, self.strict = path, name, strict
        with readable(name):
            self._open()

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def records(self, columns: Sequence[str]) -> Iterator[tuple[int, Any, str]]:
        """(row from 1, values by column or a bare str, error), once. Reads at least `columns`."""
        with self, readable(self.name):
            for row, (values, error) in enumerate(self._read(columns), 1):
                if error and self.strict:
                    raise UserError(f"{self.name}, row {row}: {error}")
                yield row, values, error

    def done(self) -> float:
        """The share of the file that was read."""
        if self._file.closed:
            return 1.0
        return min(1.0, self._file.buffer.tell() / max(1, self.path.stat().st_size))

    def _open(self) -> None:
        """Open `_file` and set `columns`."""
        how = {"encoding": "utf-8-sig", "errors": "surrogateescape", "newline": self.newline}
        self._file: Any = open(self.path, **how)  # type: ignore[call-overload]  # noqa: SIM115

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        """(values, error) of each row."""
        raise NotImplementedError


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Errors of reading the file called `name` become one line."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        line = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{name}: cannot be read ({line})") from None


def decode_error(text: str, line: int = 0) -> str:
    """The first byte of a text (in this line of its file) that is not UTF-8; empty if none."""
    if text.isascii() or not (found := _UNDECODABLE.search(text)):
        return ""
    where = f", line {line}" if line else ""
    return f"not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x}{where})"


def text_error(value: Any) -> str:
    """Why a value is not text; empty if it is."""
    if not isinstance(value, str):
        return f"{shorten(value)} is not text"
    if value.isascii() or not (found := _SURROGATE.search(value)):
        return ""
    return decode_error(value) or f"half a character (\\u{ord(found[0]):04x})"


def column_errors(file: str, wanted: Mapping[str, str], found: Sequence[str]) -> list[str]:
    """A line for each wanted column ({option: column}) that a file lacks or has twice."""
    lines, lower = [], {name.lower(): name for name in found}
    there = f"there are {', '.join(found)}" if found else "the file is empty"
    for option, column in wanted.items():
        if column not in found:
            close = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.5)
            hint = f"did you mean {lower[close[0]]!r}? " if close else ""
            lines.append(printable(f"{file}: no column {column!r} ({option}); {hint}{there}"))
        elif (n := found.count(column)) > 1:
            lines.append(f"{file}: {n} columns are called {column!r} ({option}); rename them")
    return lines


def shorten(value: Any) -> str:
    """A value as JSON of at most 40 characters."""
    text = printable(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 40 else f"{text[:37]}..."


def first_few(values: Sequence[str]) -> str:
    """At most five of the values, as an enumeration."""
    return ", ".join([*values[:5], *(["..."] if len(values) > 5 else [])])


def printable(text: str) -> str:
    """A text with U+FFFD for what cannot be encoded."""
    return _SURROGATE.sub("\ufffd", text)
