"""data.template: the text in which a model reads each text, as Python's `str.format` fills it."""

from collections.abc import Iterator
from string import Formatter
from typing import NamedTuple

ALLOWED = "expected {text} once, and for pairs {pair} once; {{ and }} stand for braces"


class ParsedTemplate(NamedTuple):
    """`names`: the fields in their order. `literals`: what is before, between and after them."""

    literals: tuple[str, ...]
    names: tuple[str, ...]


def parse_template(template: str) -> ParsedTemplate:
    """Raises ValueError that says what is wrong, and what is allowed."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError(f"a brace without its other one; {ALLOWED}") from None
    literals, names = [""], []
    for literal, name, spec, conversion in parts:
        literals[-1] += literal
        if name is not None:
            options = f"!{conversion}" if conversion else "", f":{spec}" if spec else ""
            names.append("".join((name, *options)))
            literals.append("")
    for problem in _problems(literals, names):
        raise ValueError(f"{problem}; {ALLOWED}")
    return ParsedTemplate(tuple(literals), tuple(names))


def _problems(literals: list[str], names: list[str]) -> Iterator[str]:
    for name in names:
        if name not in ("text", "pair"):
            yield f"has {{{name[:60]}}}"
        elif names.count(name) > 1:
            yield f"has {{{name}}} {names.count(name)} times"
    if "text" not in names:
        yield "has no {text}"
    if len(names) == 2 and not literals[1]:
        yield "has nothing between {text} and {pair}"
