"""Whether files have the columns that a job reads: each mistake is one line."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from distsent.data.rows import Columns
from distsent.formats.column_choice import Column
from distsent.formats.column_errors import column_errors, list_names


def find_column_errors(
    files: Sequence[tuple[str, list[str]]],
    columns: Columns,
    sample: Callable[[], Iterable[tuple[str, list[Column]]]],
) -> tuple[list[str], dict[str, Any]]:
    """A line for each column that one of `files` (name, columns) lacks or has twice, and a fix.

    `sample`: the same files with some values of each column, to tell which column was meant.
    """
    keys = {"data.text_column": columns.text, "data.pair_column": columns.pair}
    if not columns.labels:
        keys["data.label_column"] = columns.label
    at = dict(columns.positions)
    wanted = {key: name for key, name in keys.items() if name and name not in at}
    lines, fix = list[str](), dict[str, Any]()
    if any(found.count(name) != 1 for _, found in files for name in wanted.values()):
        alike: dict[tuple[str, ...], list[tuple[str, list[Column]]]] = {}
        for file, found in sample():
            alike.setdefault(tuple(column.name for column in found), []).append((file, found))
        for (file, found), *others in alike.values():
            more, other = column_errors(file, wanted, found, columns.task)
            same = f"; {len(others)} more of the files are like this" if others else ""
            lines, fix = lines + [f"{line}{same}" for line in more], other | fix
    lines += _label_column_errors(files, columns.labels)
    # No fix for files whose columns have different names
    return lines, {
        key: x
        for key, x in fix.items()
        if key == "data.task"
        or all({x} <= {*found} if isinstance(x, str) else {*x} <= {*found} for _, found in files)
    }


def _label_column_errors(
    files: Sequence[tuple[str, list[str]]], wanted: Sequence[str]
) -> Iterator[str]:
    """A line for each file that lacks some of data.label_columns, or has them twice."""
    for file, found in files:
        lack = [name for name in wanted if found.count(name) != 1]
        if lack:
            what = "has several columns" if found.count(lack[0]) else "no column"
            there = f"there are {list_names(found)}" if found else "the file is empty"
            yield f"{file}: {what} {list_names([*map(repr, lack)])} (data.label_columns); {there}"


def find_position_errors(files: Sequence[tuple[str, list[str]]], columns: Columns) -> Iterator[str]:
    """A line for each position of a column at which one of `files` (name, columns) has another.

    And for each position of a column that the job reads by its name, too.
    """
    keys = {"text": columns.text, "pair": columns.pair, "label": columns.label}
    if columns.labels:
        del keys["label"]
    at = dict(columns.positions)
    named = {name: f"data.{role}_column" for role, name in keys.items() if name and name not in at}
    named |= dict.fromkeys(columns.labels, "data.label_columns")
    places = {f"data.{role}_position": at[name] for role, name in keys.items() if name in at}
    for file, names in files:
        yield from _position_errors(file, names, places, files[0])
        for key, place in places.items():
            name = names[place] if place < len(names) else ""
            if name in named and names.count(name) == 1:
                both = f"{key} = {place} and {named[name]} are the same column, {name!r}"
                yield f"{file}: {both}; name two"


def _position_errors(
    file: str, names: Sequence[str], places: Mapping[str, int], first: tuple[str, list[str]]
) -> Iterator[str]:
    """A line for each position ({key: position}) without a column, or with that of another one.

    `first`: (name, columns) of the file that tells where each column is expected.
    """
    expected = first[1]
    for key, place in places.items():
        if place >= len(names):
            yield f"{file}: {key} = {place}: there are {len(names)} columns, counted from 0"
            continue
        elsewhere = [i for i, name in enumerate(names) if expected[place : place + 1] == [name]]
        if elsewhere and place not in elsewhere:
            other = f"{expected[place]!r} in {first[0]} and {names[place]!r} here"
            yield f"{file}: {key} = {place} is {other}, where that is column {elsewhere[0]}"
