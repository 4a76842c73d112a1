"""Columns inside of objects, and of lists with one value, under dotted names as in pandas.

data.text of {"data": {"text": ...}}, label.0 of {"label": ["pos"]}. A column of objects that hold 0
and 1 alone, such as the cats of spaCy, is read as the lists of their names that are 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from distsent.formats.records import Fixable

Path = tuple[str, ...]
DEEPEST, MOST = 8, 200  # names inside each other, and all of them: more are no columns
MOST_NAMES = 1000  # in the objects of a column: more are no classes
SEVERAL = '{} values, of which one is read; several labels need data.task = "multi_label"'


class Inner:
    """The columns inside of those that the rows have themselves. `add` all rows, then `read`."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._marked = dict[Path, dict[str, None] | None]()  # names in objects of 0 and 1; or not
        self._single = dict[str, Path]()  # of lists of names that are 1: those that have one

    def add(self, row: Mapping[str, Any]) -> None:
        """Those of a further row."""
        for key, value in row.items():
            if isinstance(value, dict | list):
                self._add(value, (key,))

    @cached_property
    def paths(self) -> dict[str, Path]:
        """All that `read` reads; those of objects that are lists, too, if the rows have them."""
        marked = {".".join(path): path for path in self._marked if self._is_marked(path)}
        single = {name: path for name, path in self._single.items() if self._is_marked(path[:-1])}
        return {**self._paths, **marked, **single}

    def read(self, row: Mapping[str, Any], name: str) -> tuple[Any, str]:
        """(value, error) of a column in a row; None where the row lacks it."""
        value: Any = row
        path = self.paths[name]
        for depth, step in enumerate(path):
            if step == "0" and self._is_marked(path[:depth]):
                value = _ones(value)
            if isinstance(value, list) and len(value) > 1:
                error = f"column {name!r}: {SEVERAL.format(len(value))}"
                several = {"data.task": "multi_label", "data.label_column": ".".join(path[:depth])}
                words = depth == len(path) - 1
                return None, Fixable(error, several) if words else error
            if isinstance(value, list):
                value = value[0] if value else None
            else:
                value = value.get(step) if isinstance(value, dict) else None
        return _ones(value) if self._is_marked(path) else value, ""

    def _add(self, value: Any, path: Path) -> None:
        if len(path) > DEEPEST:
            return
        if isinstance(value, dict):
            if value:
                self._mark(value, path)
            for key, inner in value.items():
                self._add(inner, (*path, key))
        elif isinstance(value, list):
            if value and not any(isinstance(one, dict | list) for one in value):
                self._keep(path)
            if len(value) == 1:
                self._add(value[0], (*path, "0"))
        else:
            self._keep(path)

    def _keep(self, path: Path) -> None:
        if len(path) > 1 and len(self._paths) < MOST:
            self._paths.setdefault(".".join(path), path)

    def _mark(self, value: Mapping[str, Any], path: Path) -> None:
        """Whether an object holds 0 and 1 alone, as all others of its column do."""
        if path not in self._marked and len(self._marked) == MOST:
            return
        names = self._marked.setdefault(path, {})
        if names is None:
            return
        names.update(dict.fromkeys(value))
        if len(names) > MOST_NAMES or not all(map(_is_0_or_1, value.values())):
            self._marked[path] = None
        elif sum(value.values()) == 1:
            self._single.setdefault(".".join((*path, "0")), (*path, "0"))

    def _is_marked(self, path: Path) -> bool:
        return len(self._marked.get(path) or ()) > 1


def _is_0_or_1(value: Any) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


def _ones(value: Any) -> list[str] | None:
    """The names of an object that are 1."""
    return [name for name, one in value.items() if one] if isinstance(value, dict) else None
