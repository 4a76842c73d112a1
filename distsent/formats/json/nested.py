"""Columns inside of objects, and of lists with one value, under dotted names as in pandas.

data.text of {"data": {"text": ...}}, label.0 of {"label": ["pos"]}.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]
DEEPEST, MOST = 8, 200  # names inside each other, and all of them: more are no columns
SEVERAL = '{} values, of which one is read; several labels need data.task = "multi_label"'


class Inner:
    """The columns inside of those that the rows have themselves."""

    def __init__(self) -> None:
        self.paths: dict[str, Path] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Those of a further row."""
        for key, value in row.items():
            if isinstance(value, dict | list):
                for path in _paths(value, (key,)):
                    if len(self.paths) < MOST:
                        self.paths.setdefault(".".join(path), path)

    def read(self, row: Mapping[str, Any], name: str) -> tuple[Any, str]:
        """(value, error) of a column in a row; None where the row lacks it."""
        value: Any = row
        for step in self.paths[name]:
            if isinstance(value, list) and len(value) > 1:
                return None, f"column {name!r}: {SEVERAL.format(len(value))}"
            if isinstance(value, list):
                value = value[0] if value else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return value, ""


def _paths(value: Any, path: Path) -> Iterator[Path]:
    """Those of what is neither object nor list."""
    if len(path) > DEEPEST:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))
    elif isinstance(value, list):
        if len(value) == 1:
            yield from _paths(value[0], (*path, "0"))
    elif len(path) > 1:
        yield path
