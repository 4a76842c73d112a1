"""Keys of a job: value types that read a value as written and describe what they accept."""

import json
import operator
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class ValueType:
    """`read` returns the value for the job, or raises ValueError; `allowed` follows "expected"."""

    allowed: str
    read: Callable[[Any], Any]


@dataclass(frozen=True)
class Key:
    """The schema of one key."""

    default: Any
    type: ValueType
    meaning: str
    unset: str  # what an unset key means; empty if the key needs a value
    example: Any
    pretrained: Any  # the default if the job names its own model; None: the same

    def read(self, value: Any) -> Any:
        """The value for the job; ValueError if the key does not accept it."""
        if self.unset and str(value).lower() in ("none", "null"):
            return None
        return self.type.read(value)

    def accepts(self, value: Any) -> bool:
        try:
            self.read(value)
        except ValueError:
            return False
        return True


def key(
    default: Any,
    value_type: ValueType,
    meaning: str,
    *,
    unset: str = "",
    example: Any = None,
    pretrained: Any = None,
) -> Any:
    """A dataclass field that carries its `Key`."""
    example = default if example is None else example
    schema = Key(default, value_type, meaning, unset, example, pretrained)
    return field(default=default, metadata={"key": schema})


def integer(*bounds: str) -> ValueType:
    """An integer within bounds such as ">= 1"."""

    def read(value: Any) -> int:
        # type(), not isinstance(): true is not 1
        if type(value) is not int or not _within(value, bounds):
            raise ValueError
        return value

    return ValueType(f"an integer {' and '.join(bounds)}", read)


def number(*bounds: str) -> ValueType:
    """A finite float within bounds such as "> 0"; an integer is accepted as well."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise ValueError
        if not _within(value, bounds):
            raise ValueError
        return float(value)

    return ValueType(f"a number {' and '.join(bounds)}", read)


def _within(value: float, bounds: tuple[str, ...]) -> bool:
    pairs = (bound.split() for bound in bounds)
    return all(COMPARE[sign](value, float(limit)) for sign, limit in pairs)


def choice(*values: str | int) -> ValueType:
    """One of the values."""

    def read(value: Any) -> Any:
        if not any(type(value) is type(known) and value == known for known in values):
            raise ValueError
        return value

    return ValueType(" or ".join(map(to_toml_value, values)), read)


def matching(pattern: str, allowed: str) -> ValueType:
    """Printable text that matches the pattern completely."""

    def read(value: Any) -> str:
        if type(value) is not str or not re.fullmatch(pattern, value) or UNPRINTABLE.search(value):
            raise ValueError
        return value

    return ValueType(allowed, read)


def list_of(
    item_type: ValueType,
    allowed: str,
    *,
    least: int = 1,
    most: int = sys.maxsize,
    distinct: bool = False,
) -> ValueType:
    """A list of items of one type, as a tuple."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not least <= len(value) <= most:
            raise ValueError
        items = tuple(item_type.read(item) for item in value)
        if distinct and len(set(items)) < len(items):
            raise ValueError
        return items

    return ValueType(allowed, read)


def either(first: ValueType, second: ValueType) -> ValueType:
    """A value of one of two types."""

    def read(value: Any) -> Any:
        try:
            return first.read(value)
        except ValueError:
            return second.read(value)

    return ValueType(f"{first.allowed}, or {second.allowed}", read)


def to_toml_value(value: Any) -> str:
    """A value in TOML; None, which TOML does not have, as the word that unsets a key."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            # JSON's escapes are TOML's, except for DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case list() | tuple():
            return f"[{', '.join(map(to_toml_value, value))}]"
        case dict():
            items = (f"{name} = {to_toml_value(item)}" for name, item in value.items())
            return f"{{ {', '.join(items)} }}"
    return str(value)


text = matching(r".*\S.*", "text")
boolean = choice(True, False)
count = integer(">= 1")
positive = number("> 0")
non_negative = number(">= 0")
fraction = number(">= 0", "< 1")
