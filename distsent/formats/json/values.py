"""JSON values out of a text, without more of it in memory than one value needs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

CHUNK = 1 << 20  # characters read at once
_SPACE = re.compile(r"[ \t\r\n]*")
_PYTHON_DICT = re.compile(r"""\s*\[?\s*\{?\s*u?'""")


class Twice(dict):
    """An object in which a key occurs twice; `names` are those keys. It has the last values."""

    names: frozenset[str]


class NotJson(ValueError):
    """str() says what is wrong, and where. `cut`: the text ends within a value."""

    cut = python = False  # python: it is what Python prints


class Readable(Protocol):
    """What values are read from: a TextStream, for one."""

    def read(self, size: int, /) -> str: ...


def parse(text: str) -> Any:
    """The value that a line is. Raises NotJson."""
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _not_json(text, error.pos, error.msg, f"column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise NotJson(f"not JSON ({_reason(error)})") from None


def values(text: Readable) -> Iterator[Any]:
    """The values of a text that is a sequence of them, or the elements of the list that it is.

    Raises NotJson.
    """
    source = _Buffer(text)
    if source.next() != "[":
        while source.next():
            yield source.value()
        return
    source.skip()
    if source.next() != "]":
        yield source.value()
        while source.next() == ",":
            source.skip()
            yield source.value()
    if source.next() != "]":
        raise source.error("expecting , or ]")
    source.skip()
    if source.next():
        raise source.error("the list ends, but the file does not")


class _Buffer:
    """A window of a text."""

    def __init__(self, text: Readable) -> None:
        self._text, self._window, self._at = text, "", 0
        self._lines, self._column = 1, 0  # before the window
        self._ended = False

    def next(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            here = self._window[self._at : self._at + 1]
            if here and here not in " \t\r\n":
                return here
            self._at = _SPACE.match(self._window, self._at).end()  # type: ignore[union-attr]
            if self._at == len(self._window) and not self._more():
                return ""

    def skip(self) -> None:
        self._at += 1

    def value(self) -> Any:
        """The value that begins here or after blanks."""
        self.next()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
                # A number may go on after the window
                if end < len(self._window) or not self._more():
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos + 16 > len(self._window)
                if not (cut and self._more()):
                    raise self.error(error.msg, error.pos) from None
            except (ValueError, RecursionError) as error:
                raise self.error(_reason(error)) from None

    def error(self, reason: str, at: int | None = None) -> NotJson:
        """What is wrong at a place of the window."""
        at = self._at if at is None else at
        line = self._lines + self._window.count("\n", 0, at)
        start = self._window.rfind("\n", 0, at) + 1
        column = at - start + 1 + (0 if start else self._column)
        return _not_json(self._window, at, reason, f"line {line}, column {column}")

    def _more(self) -> bool:
        """Drops what was read and reads on: each time more, so that time stays linear."""
        rest = self._window[self._at :]
        more = "" if self._ended else self._text.read(max(CHUNK, len(rest)))
        self._ended = not more
        if more:
            done = self._window[: self._at]
            self._lines += done.count("\n")
            last = done.rfind("\n")
            self._column = len(done) - last - 1 if last >= 0 else self._column + len(done)
            self._window, self._at = rest + more, 0
        return bool(more)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, with the keys that occur twice in it."""
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    twice, keys = Twice(found), [key for key, _ in pairs]
    twice.names = frozenset(key for key in found if keys.count(key) > 1)
    return twice


def _not_json(text: str, at: int, reason: str, where: str) -> NotJson:
    """The error at a place of a text; what is often written there is named."""
    here, before = text[at : at + 2], text[:at].rstrip()[-1:]
    if _PYTHON_DICT.match(text[max(0, at - 3) : at + 1]):
        error = NotJson(f"a dict of Python, not JSON ({where})")
        error.python = True
        return error
    if here[:1] in ("}", "]") and before == ",":
        reason = f"a comma before {here[0]}"
    elif here in ("//", "/*") or here[:1] == "#":
        reason = "a comment"
    elif here[:1] == "\ufeff":
        reason = "the mark of an encoding inside of the file, as in joined files"
    error = NotJson(f"not JSON ({reason}, {where})")
    error.cut = not text[at:].strip() or reason.startswith("Unterminated string")
    return error


def _reason(error: BaseException) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)[:80]


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
