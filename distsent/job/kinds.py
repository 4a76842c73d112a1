"""What a key accepts: each kind reads a value as it was written, and says in words what it allows."""

import json
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Kind:
    """`read` returns the value as the job holds it, or raises ValueError; `allowed` completes "expected ..."."""

    allowed: str
    read: Callable[[Any], Any]


def to_toml_value(value: Any) -> str:
    """A value as TOML writes it; None, which TOML cannot write, as the word that clears a key."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            # JSON's escapes are TOML's, but for DEL
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(to_toml_value, value))}]"
        case dict():
            return (
                "{ "
                + ", ".join(f"{key} = {to_toml_value(item)}" for key, item in value.items())
                + " }"
            )
        case _:
            return str(value)


def whole(*bounds: str) -> Kind:
    """A whole number within bounds such as ">= 1"."""

    def read(value: Any) -> int:
        # type(), not isinstance(): true is not 1
        if type(value) is not int or not within(value, bounds):
            raise ValueError
        return value

    return Kind(" and ".join([f"a whole number {bounds[0]}", *bounds[1:]]), read)


def number(*bounds: str) -> Kind:
    """A finite number within bounds such as "> 0"; a whole one is taken as well."""

    def read(value: Any) -> float:
        if type(value) not in (int, float):
            raise ValueError
        try:
            value = float(value)
        except OverflowError:
            raise ValueError from None
        if not math.isfinite(value) or not within(value, bounds):
            raise ValueError
        return value

    return Kind(" and ".join([f"a number {bounds[0]}", *bounds[1:]]), read)


def within(value: float, bounds: tuple[str, ...]) -> bool:
    return all(
        COMPARE[sign](value, float(limit)) for sign, limit in (bound.split() for bound in bounds)
    )


def choice(*values: str | int) -> Kind:
    """One of the values, as they stand."""

    def read(value: Any) -> Any:
        if not any(type(value) is type(known) and value == known for known in values):
            raise ValueError
        return value

    return Kind(" or ".join(to_toml_value(known) for known in values), read)


def matching(pattern: str, words: str) -> Kind:
    """Text that the whole pattern matches."""

    def read(value: Any) -> str:
        if type(value) is not str or not re.fullmatch(pattern, value) or UNPRINTABLE.search(value):
            raise ValueError
        return value

    return Kind(words, read)


def several(
    kind: Kind, words: str, *, least: int = 1, most: int | None = None, distinct: bool = False
) -> Kind:
    """A list, held as a tuple, whose items are all of one kind."""

    def read(value: Any) -> tuple[Any, ...]:
        if (
            not isinstance(value, list | tuple)
            or len(value) < least
            or (most and len(value) > most)
        ):
            raise ValueError
        items = tuple(kind.read(item) for item in value)
        if distinct and len(set(items)) < len(items):
            raise ValueError
        return items

    return Kind(words, read)


def either(first: Kind, second: Kind) -> Kind:
    """What one of two kinds accepts."""

    def read(value: Any) -> Any:
        try:
            return first.read(value)
        except ValueError:
            return second.read(value)

    return Kind(f"{first.allowed}, or {second.allowed}", read)


text = matching(r".*\S.*", "text")
flag = choice(True, False)
