"""Keys of a job: value types that check a value as written and describe what they accept."""

import json
import math
import operator
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

COMPARE = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
# An item of a list or table: in quotes, perhaps after a name and =, or without quotes.
ITEM = re.compile(r"""\s*((?:[^,"'=]+=\s*)?(?:"(?:[^"\\]|\\.)*"|'[^']*')|[^,]*?)\s*(?:,|$)""")
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def parse_value(argument: str) -> Any:
    """A value as TOML reads it. Anything that is not TOML is text without quotes."""
    try:
        tree = tomllib.loads(f"value = {argument}")
    except (ValueError, RecursionError):
        items = _items(argument)
        return argument if items is None else list(map(parse_value, items))
    # A line break in the text could add a second key.
    return tree["value"] if len(tree) == 1 else argument


def parse_text(argument: str) -> str:
    """Text as written, without quotes around it: 2024-11-25, 1e5 and true stay what they are."""
    value = parse_value(argument)
    return value if isinstance(value, str) else argument


def _items(argument: str, brackets: str = "[]") -> list[str] | None:
    """The items of a list or table as written, perhaps without quotes; None if it is not one."""
    inner = argument[1:-1]
    if argument[:1] + argument[-1:] != brackets or "[" in inner or "{" in inner:
        return None
    return [item for item in ITEM.findall(inner) if item]


@dataclass(frozen=True)
class ValueType:
    """`convert` turns an accepted value into the job's; `allowed` follows "expected".

    `parse` reads a value from the command line, where quotes are rarely written. `keeps_blanks`:
    whether it gets the blanks at the ends, too.
    """

    allowed: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    parse: Callable[[str], Any] = parse_value
    keeps_blanks: bool = False


@dataclass(frozen=True)
class Key:
    """The schema of one key."""

    default: Any
    type: ValueType
    meaning: str
    unset: str = ""  # what an unset key means; empty if the key needs a value
    example: Any = None
    pretrained: Any = None  # the default if the job names its own model; None: the same
    by_task: Mapping[str, Any] = field(
        default_factory=dict
    )  # defaults for some values of data.task

    def accepts(self, value: Any) -> bool:
        return self._is_unset(value) or self.type.accepts(value)

    def read(self, value: Any) -> Any:
        """The job's value for an accepted value."""
        return None if self._is_unset(value) else self.type.convert(value)

    def _is_unset(self, value: Any) -> bool:
        return bool(self.unset) and str(value).lower() in ("none", "null")


def key(default: Any, value_type: ValueType, meaning: str, **options: Any) -> Any:
    """A dataclass field that carries its `Key`. The default is the example if there is no other."""
    schema = Key(default, value_type, meaning, **{"example": default, **options})
    return field(default=default, metadata={"key": schema})


def integer(*bounds: str) -> ValueType:
    """An integer within bounds such as ">= 1"."""
    # type(), not isinstance(): true is not 1
    return ValueType(
        f"an integer {' and '.join(bounds)}", lambda x: type(x) is int and _within(x, bounds)
    )


def number(*bounds: str) -> ValueType:
    """A finite float within bounds such as "> 0"; an integer is accepted as well."""

    def accepts(x: Any) -> bool:
        try:
            return type(x) in (int, float) and math.isfinite(x) and _within(x, bounds)
        except OverflowError:  # an integer above all floats
            return False

    return ValueType(f"a number {' and '.join(bounds)}", accepts, float)


def _within(x: float, bounds: tuple[str, ...]) -> bool:
    pairs = (bound.split() for bound in bounds)
    return all(COMPARE[sign](x, float(limit)) for sign, limit in pairs)


def choice(*values: str | int) -> ValueType:
    """One of the values."""
    return ValueType(
        " or ".join(map(to_toml_value, values)),
        lambda x: any(type(x) is type(known) and x == known for known in values),
    )


def matching(pattern: str, allowed: str) -> ValueType:
    """Printable text that the pattern matches completely."""

    def accepts(x: Any) -> bool:
        return type(x) is str and bool(re.fullmatch(pattern, x)) and not UNPRINTABLE.search(x)

    return ValueType(allowed, accepts, parse=parse_text)


def character(*words: str, most: int = 1) -> ValueType:
    r"""One of `words`, or at most `most` characters: a tab may be written \\t."""

    def accepts(x: Any) -> bool:
        if type(x) is not str:
            return False
        mark = _unescape(x)
        return x in words or (1 <= len(mark) <= most and not UNPRINTABLE.search(mark.strip("\t")))

    def parse(argument: str) -> str:
        bare = argument.strip()
        return bare if bare in (*words, "none") else parse_text(argument)

    allowed = " or ".join(
        [*map(to_toml_value, words), "a character" if most == 1 else f"1 to {most} characters"]
    )
    return ValueType(allowed, accepts, _unescape, parse, keeps_blanks=True)


def _unescape(mark: str) -> str:
    return "\t" if mark == "\\t" else mark


def encoding(*words: str) -> ValueType:
    """One of `words`, or the name of a text encoding that Python knows."""

    def accepts(x: Any) -> bool:
        try:
            return x in words or (type(x) is str and bool("".encode(x) is not None))
        except (LookupError, ValueError):
            return False

    return ValueType(f"{words[0]} or an encoding of Python", accepts, parse=parse_text)


def table_of(item: ValueType, allowed: str) -> ValueType:
    """A table from texts to distinct items of one type."""

    def accepts(x: Any) -> bool:
        fits = isinstance(x, dict) and len(x) >= 2 and all(map(item.accepts, x.values()))
        return fits and len(set(map(item.convert, x.values()))) == len(x)

    def parse(argument: str) -> Any:
        value = parse_value(argument)
        if (isinstance(value, dict) and accepts(value)) or not (items := _items(argument, "{}")):
            return value
        pairs = [list(map(str.strip, each.partition("="))) for each in items]
        return {parse_text(name): item.parse(text) for name, _, text in pairs}

    return ValueType(allowed, accepts, lambda x: {k: item.convert(v) for k, v in x.items()}, parse)


def list_of(
    item: ValueType, allowed: str, least: int = 1, most: float = math.inf, distinct: bool = False
) -> ValueType:
    """A list of items of one type, as a tuple."""

    def accepts(x: Any) -> bool:
        fits = isinstance(x, list | tuple) and least <= len(x) <= most and all(map(item.accepts, x))
        return fits and not (distinct and len(set(x)) < len(x))

    def parse(argument: str) -> Any:
        items = _items(argument)
        return parse_value(argument) if items is None else list(map(item.parse, items))

    return ValueType(allowed, accepts, lambda x: tuple(map(item.convert, x)), parse)


def either(first: ValueType, second: ValueType) -> ValueType:
    """A value of one of two types. What is written as a list or table is never read as text."""

    def accepts(x: Any) -> bool:
        return first.accepts(x) or second.accepts(x)

    def parse(argument: str) -> Any:
        values = [first.parse(argument), second.parse(argument)]
        values = [x for x in values if isinstance(x, list | dict)] or values
        return next(filter(accepts, values), values[0])

    return ValueType(
        f"{first.allowed}, or {second.allowed}",
        accepts,
        lambda x: (first if first.accepts(x) else second).convert(x),
        parse,
    )


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
            names = (n if re.fullmatch("[A-Za-z0-9_-]+", n) else to_toml_value(n) for n in value)
            items = map(" = ".join, zip(names, map(to_toml_value, value.values()), strict=True))
            return f"{{ {', '.join(items)} }}"
    return str(value)
