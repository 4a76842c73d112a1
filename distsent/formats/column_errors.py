"""What is wrong with the columns of a file: one line each, with the columns that were meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distsent.formats.column_choice import (
    LABEL,
    LABEL_NAMES,
    PAIR,
    TEXT,
    TEXT_NAMES,
    Column,
    choose_columns,
    name_score,
)
from distsent.formats.records import printable
from distsent.formats.task_choice import suggest_task
from distsent.job.keys import to_toml_value

LIST_WIDTH = 80  # characters of column names in a message


def column_errors(
    file: str, wanted: Mapping[str, str], columns: Sequence[Column], task: str = "single_label"
) -> tuple[list[str], dict[str, Any]]:
    """A line for each wanted column ({option: column}) that a file lacks or has twice, and a fix.

    The fix names a column for each option that has a likely one. `task`: data.task; another one is
    a part of the fix where no column may hold a single label.
    """
    found = [column.name for column in columns]
    lines, fix = list[str](), dict[str, Any]()
    there = f"there are {list_names(found)}" if found else "the file is empty"
    for option, name in wanted.items():
        if name not in found:
            used = [*wanted.values(), *fix.values()]
            keys = meant(option, name, [c for c in columns if c.name not in used], task)
            hint = _hint(keys)
            lines.append(printable(f"{file}: no column {name!r} ({option}); {hint}{there}"))
            fix |= keys
        elif (n := found.count(name)) > 1:
            places = [str(place) for place, other in enumerate(found, 1) if other == name]
            where = f"{', '.join(places[:-1])} and {places[-1]}"
            line = f"{file}: {n} columns are called {name!r} ({option}): columns {where}"
            lines.append(f"{line}; rename them")
    return lines, fix


def _hint(keys: Mapping[str, Any]) -> str:
    """What was probably meant, as a question."""
    if several := keys.get("data.label_columns"):
        hint = f"{list_names(several)} are 0 or 1: several labels per text, read with "
        return hint + 'data.task = "multi_label" and data.label_columns; '
    likely = " and ".join(repr(name) for key, name in keys.items() if key != "data.task")
    task = f" (data.task = {to_toml_value(keys['data.task'])})" if "data.task" in keys else ""
    return f"did you mean {likely}{task}? " if keys else ""


def meant(
    option: str, name: str, columns: Sequence[Column], task: str = "single_label"
) -> dict[str, Any]:
    """The keys that were probably meant: by the spelling of `name`, then evidence, then a typo.

    Where the text is one of a pair, both are meant.
    """
    plain = {_plain(column.name): column.name for column in reversed(columns)}
    if _plain(name) in plain:
        return {option: plain[_plain(name)]}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    typo = {option: plain[close[0]]} if close else {}
    known = name_score(name, (*TEXT_NAMES, *LABEL_NAMES)) > 0
    if option == PAIR or (typo and not known):
        return typo
    likely: dict[str, Any] = choose_columns(columns, pair=True)
    if option != LABEL:
        likely.pop(LABEL, None)
        return likely or typo
    label = {LABEL: likely[LABEL]} if LABEL in likely else {}
    others = [column for column in columns if column.name != likely.get(TEXT)]
    label |= suggest_task(others, likely.get(LABEL))
    suggested = label.pop("data.task", task) if task != "single_label" else task
    return label if suggested == task else {}


def list_names(names: Sequence[str]) -> str:
    """Column names as an enumeration of at most 80 characters."""
    shown, width = list[str](), 0
    for name in (name or '""' for name in names):
        width += len(name) + 2
        if width > LIST_WIDTH and shown:
            return f"{', '.join(shown)} and {len(names) - len(shown):,} more"
        shown.append(name if len(name) <= LIST_WIDTH else f"{name[: LIST_WIDTH - 3]}...")
    return ", ".join(shown)


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()
