"""Checks of single values, and one line for everything that is wrong with a file."""

import errno
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from distsent.errors import UserError

_UNDECODABLE = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as surrogateescape keeps
_LINE_ENDS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# White space, control characters, and what has no width or no ink; for re and for Arrow
BLANK = (
    r"[\x00-\x20\x7f-\x9f"
    "\xa0\xad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f\u2000-\u200f\u2028-\u202f"
    "\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]*"
)
_BLANK = re.compile(BLANK)


# Without an errno: what decompressing and decoding say of damaged bytes
_DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, UnicodeError)


class Fixable(str):
    """What is wrong with a row, and the keys that repair it."""

    fix: dict[str, Any]

    def __new__(cls, error: str, fix: dict[str, Any]) -> "Fixable":
        found = super().__new__(cls, error)
        found.fix = fix
        return found


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Errors of reading the file called `name` become one line."""
    try:
        yield
    except (OSError, MemoryError, pa.ArrowException, NotImplementedError, *_DAMAGE) as error:
        line = getattr(error, "strerror", None) or (str(error) or type(error).__name__)
        why = f"cannot be read ({one_line(line).rstrip('.')[:80]})"
        # EINVAL: a damaged archive leads to a place before its beginning
        damaged = isinstance(error, _DAMAGE) or getattr(error, "errno", 0) in (None, errno.EINVAL)
        fix = "; damaged or incomplete: copy or download it again" if damaged else ""
        raise UserError(f"{name}: {why}{fix}") from None


def decode_error(text: str, line: int = 0) -> str:
    """The first byte of a text (in this line of its file) that is not UTF-8; empty if none."""
    if text.isascii() or not (found := _UNDECODABLE.search(text)):
        return ""
    where = f", line {line}" if line else ""
    return f"not UTF-8 (byte 0x{ord(found[0]) - 0xDC00:02x}{where})"


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen."""
    return bool(_BLANK.fullmatch(text))


def text_error(value: Any) -> str:
    """Why a value is not text; empty if it is."""
    if not isinstance(value, str):
        return f"{shorten(value)} is not text"
    if value.isascii() or not (found := _SURROGATE.search(value)):
        return ""
    return decode_error(value) or f"half a character (\\u{ord(found[0]):04x})"


def shorten(value: Any) -> str:
    """A value as JSON of at most 40 characters."""
    text = one_line(json.dumps(value, ensure_ascii=False, default=str))
    return text if len(text) <= 40 else f"{text[:37]}..."


def first_few(values: Sequence[str]) -> str:
    """At most five of the values, as an enumeration."""
    shown = [one_line(value)[:60] for value in values[:5]]
    return ", ".join([*shown, *(["..."] if len(values) > 5 else [])])


def one_line(text: str) -> str:
    """A text without line ends of any kind, and with U+FFFD for what cannot be encoded."""
    return _LINE_ENDS.sub(lambda found: f"\\u{ord(found[0]):04x}", printable(text))


def counted(number: int, noun: str) -> str:
    """A number of things: "1 row", "2,000 rows"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def printable(text: str) -> str:
    """A text with U+FFFD for what cannot be encoded."""
    return _SURROGATE.sub("\ufffd", text)


def check_name(name: str) -> str:
    """The name of a file. Raises UserError if it cannot be written down: it is not UTF-8."""
    if (shown := printable(name)) != name:
        raise UserError(f"{one_line(shown)}: the name of this file is not UTF-8; rename it")
    return name
