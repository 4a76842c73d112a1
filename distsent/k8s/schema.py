"""Holds a document against the description of its kind (kinds.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from typing import Any

from distsent.k8s.documents import Document, Finding, Where
from distsent.k8s.kinds import KINDS

QUANTITY = re.compile(
    r"(?P<number>\d+(\.\d+)?|\.\d+)(?P<unit>m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE]-?\d+)?"
)
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
UNITS = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
}


def quantity(value: Any) -> float | None:
    """A Kubernetes quantity as a number; None if it is none."""
    found = (
        QUANTITY.fullmatch(str(value))
        if isinstance(value, str | int | float) and not isinstance(value, bool)
        else None
    )
    if found is None:
        return None
    unit = found["unit"] or ""
    return (
        float(found["number"] + unit)
        if unit[:1] in "eE" and unit[1:].lstrip("-").isdigit()
        else float(found["number"]) * UNITS.get(unit, 1.0)
    )


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


PLAIN: dict[str, tuple[Callable[[Any], bool], str]] = {
    "text": (lambda value: isinstance(value, str), "text (put it in quotes)"),
    "int": (is_int, "a whole number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "name": (
        lambda value: isinstance(value, str) and NAME.fullmatch(value) is not None,
        "a name of small letters, digits and -",
    ),
    "quantity": (lambda value: quantity(value) is not None, "a quantity, such as 500m, 2 or 8Gi"),
    "int or name": (
        lambda value: (
            is_int(value) or (isinstance(value, str) and NAME.fullmatch(value) is not None)
        ),
        "a port's number or name",
    ),
    "any": (lambda value: True, "anything"),
}


def check(document: Document) -> Iterator[Finding]:
    """What of a document its kind does not allow."""
    version, kind = str(document.data.get("apiVersion", "")), document.kind
    description = KINDS.get((version, kind))
    if description is None:
        versions = [known for known, other in KINDS if other == kind]
        if versions:
            yield document.finding(
                "kind",
                f"{kind} is of {' or '.join(versions)}, not of {version or 'no apiVersion'}",
                "apiVersion",
            )
        else:
            names = sorted({other for _, other in KINDS})
            yield document.finding(
                "kind", f"unknown kind {kind or '(none)'}{closest(kind, names)}", "kind"
            )
        return
    yield from compare(document, document.data, description, ())


def compare(document: Document, value: Any, wanted: Any, where: Where) -> Iterator[Finding]:
    way = dotted(where)
    if isinstance(wanted, str):
        fits, words = PLAIN[wanted]
        if not fits(value):
            yield document.finding("type", f"{way} = {show(value)}: must be {words}", *where)
    elif isinstance(wanted, tuple):
        if value not in wanted:
            allowed = ", ".join(repr(one) if one == "" else str(one) for one in wanted)
            yield document.finding(
                "value", f"{way} = {show(value)}: must be one of {allowed}", *where
            )
    elif isinstance(wanted, list):
        if not isinstance(value, list):
            yield document.finding("type", f"{way}: must be a list", *where)
            return
        for index, item in enumerate(value):
            yield from compare(document, item, wanted[0], (*where, index))
    else:
        yield from compare_mapping(document, value, wanted, where)


def compare_mapping(
    document: Document, value: Any, wanted: dict[str, Any], where: Where
) -> Iterator[Finding]:
    way = dotted(where)
    if not isinstance(value, dict):
        yield document.finding("type", f"{way}: must be a mapping", *where)
        return
    fields = {name.rstrip("!"): inner for name, inner in wanted.items()}
    for name in wanted:
        if name.endswith("!") and value.get(name[:-1]) is None:
            yield document.finding(
                "required", f"{way + ': ' if way else ''}{name[:-1]} is missing", *where
            )
    for name, inner in value.items():
        kind = fields.get(name, fields.get("*"))
        if kind is None:
            if name != "status":
                yield document.finding(
                    "field",
                    f"{way + '.' if way else ''}{name}: no such field{closest(name, list(fields))}",
                    *where,
                    name,
                )
        elif inner is not None:
            yield from compare(document, inner, kind, (*where, name))


def dotted(where: Where) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in where).lstrip(
        "."
    )


def closest(name: str, known: list[str]) -> str:
    found = get_close_matches(name, known, 1)
    return (
        f"; did you mean {found[0]}?"
        if found
        else f"; known: {', '.join(sorted(known)[:12])}"
        if known
        else ""
    )


def show(value: Any) -> str:
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return text if len(text) <= 60 else text[:57] + "..."
