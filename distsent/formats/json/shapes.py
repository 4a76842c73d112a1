"""How rows lie in a single JSON value: the shapes that pandas, datasets and others write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distsent.errors import UserError
from distsent.formats.records import first_few, shorten

FEW = 10  # entries: fewer do not show that their keys are texts
_LISTS = "an object with a list of {} for each key"
SPLIT = re.compile("train|valid|val|dev|eval|test", re.IGNORECASE)


class NoRows(UserError):
    """An object whose rows cannot be found."""


def parts_of_value(value: Any) -> dict[str, Any]:
    """The rows by split, of an object whose keys are splits; empty if it is none.

    {"train": [{"text": ...}, ...], "test": [...]}: at least one key is named like a split, and all
    lists hold objects or pairs. What is no list or table (a version, a license) is no split.
    """
    if not isinstance(value, dict):
        return {}
    found = {key: rows for key, rows in value.items() if isinstance(rows, list | dict)}
    fit = all(_is_table(rows) for rows in found.values())
    return found if fit and any(map(SPLIT.search, found)) else {}


def _is_table(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(row, dict) for row in value) or all(_is_pair(row) for row in value)
    return bool(_columns(value))


def _is_pair(row: Any) -> bool:
    return isinstance(row, list) and len(row) >= 2 and not any(map(_is_nested, row))


def _is_nested(value: Any) -> bool:
    return isinstance(value, list | dict)


def rows_of_value(name: str, value: Any) -> tuple[Iterable[Any], str]:
    """(rows, how they lie) of an object or a list. A row is an object, a list or a bare text."""
    if isinstance(value, list):
        return value, ""
    if not isinstance(value, dict):
        raise UserError(f"{name}: {shorten(value)} is neither an object nor a list; {EXPECTED}")
    if isinstance(value.get("columns"), list) and isinstance(value.get("data"), list):
        return named_rows(value["data"], [*map(str, value["columns"])]), "columns and data"
    if page := _page(name, value):
        return page
    if columns := _columns(value):
        return _by_row(columns), "a list for each column"
    if path := list_path(value):
        return _lists(value)[path], f"the list {'.'.join(path)!r}"
    if table := _nested(name, value):
        return table
    nested = value and all(isinstance(entry, list | dict) for entry in value.values())
    spoken = any(isinstance(entry, str) and " " in entry for entry in value.values())
    if nested or (list_paths(value) and not spoken):
        raise NoRows(f"{name}: an object with {first_few([*map(repr, value)])}; {EXPECTED}")
    return [value], ""


def list_path(value: Any) -> tuple[str, ...]:
    """The keys of the list of rows in an object, if there is one such list: ("hits", "hits")."""
    lists = _lists(value) if isinstance(value, dict) else {}
    if len(lists) != 1:
        return ()
    ((path, rows),) = lists.items()
    return path if _are_rows(rows) else ()


def list_paths(value: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The keys of the lists of objects in an object, the longest list first."""
    found = {path: rows for path, rows in _lists(value).items() if _are_rows(rows)}
    return sorted(found, key=lambda path: -len(found[path]))


def _are_rows(values: Sequence[Any]) -> bool:
    """Whether these are objects, or pairs."""
    return bool(values) and (
        all(isinstance(row, dict) for row in values) or all(map(_is_pair, values))
    )


def _lists(value: Mapping[str, Any]) -> dict[tuple[str, ...], list[Any]]:
    """The lists of an object by their keys; if it has none and no text, those of objects in it.

    {"hits": {"hits": [...]}} of Elasticsearch has the list hits.hits. Empty lists are none where
    others are not: Rasa's regex_features.
    """
    found = dict[tuple[str, ...], list[Any]]()
    found |= {(key,): rows for key, rows in value.items() if isinstance(rows, list)}
    found = {key: rows for key, rows in found.items() if rows} or found
    if found or any(isinstance(entry, str) and " " in entry for entry in value.values()):
        return found
    inner = {key: _lists(entry) for key, entry in value.items() if isinstance(entry, dict)}
    return {(key, *path): rows for key, some in inner.items() for path, rows in some.items()}


def texts_by_key(value: Any) -> tuple[str, str, str]:
    """What an object is whose keys are labels or texts: (what, kind of keys, rows in Python).

    Empty for others. Such an object is not read: its keys may be names of columns as well.
    """
    entries = [*value.values()] if isinstance(value, dict) else []
    if len(entries) > 1 and all(isinstance(some, list) and some for some in entries):
        if all(isinstance(row, dict) for some in entries for row in some) and _are_alike(entries):
            return (
                _LISTS.format("objects"),
                "labels",
                "dict(x,label=k)for k,v in d.items()for x in v",
            )
        if all(map(_are_texts, entries)):
            rows = "dict(text=x,label=k)for k,v in d.items()for x in v"
            return _LISTS.format("texts"), "labels", rows
    labels = {entry for entry in entries if isinstance(entry, str | int)}
    if len(entries) >= FEW and 0 < len(labels) * 2 <= len(entries) and _are_texts([*value]):
        return "texts as keys", "texts", "dict(text=k,label=v)for k,v in d.items()"
    return "", "", ""


def _are_alike(tables: Sequence[Sequence[Mapping[str, Any]]]) -> bool:
    """Whether the objects of all lists have about the same keys."""
    keys = [{key for row in rows for key in row} for rows in tables]
    return 2 * len(set.intersection(*keys)) >= len(set.union(*keys))


def _are_texts(values: Sequence[Any]) -> bool:
    """Whether nearly all are different, and most have several words."""
    words = [value for value in values if isinstance(value, str)]
    several = sum(" " in word.strip() for word in words)
    return len({*words}) * 10 >= 9 * len(values) and several * 2 > len(values)


def _page(name: str, value: Mapping[str, Any]) -> tuple[Iterable[Any], str] | None:
    """The answer of the hub's server of datasets: some rows, which may be cut."""
    rows = value.get("rows")
    if not (isinstance(rows, list) and rows and all(map(_has_row, rows))):
        return None
    if cut := sum(bool(row.get("truncated_cells")) for row in rows):
        fix = "download the dataset's parquet files"
        raise UserError(f"{name}: {cut:,} rows have values that the server cut; {fix}")
    every = value.get("num_rows_total") or len(rows)
    return [row["row"] for row in rows], f"a page of the {every:,} rows of a dataset"


def _has_row(entry: Any) -> bool:
    return isinstance(entry, dict) and "row_idx" in entry and isinstance(entry.get("row"), dict)


EXPECTED = (
    "expected a list of objects, an object per line, a list for each column, or splits as keys"
)


def _columns(value: Mapping[str, Any]) -> dict[str, Sequence[Any]]:
    """{"text": ["a", ...], "label": [0, ...]}: the columns; empty if it is no such object."""
    lists = [entry for entry in value.values() if isinstance(entry, list)]
    same = len({len(entry) for entry in lists}) == 1 and len(lists) == len(value) >= 1
    nested = any(isinstance(x, dict) for entry in lists for x in entry)
    pairs = bool(lists) and all(entry and all(map(_is_pair, entry)) for entry in lists)
    return dict(value) if same and not nested and not pairs else {}


def _by_row(columns: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def named_rows(rows: Iterable[Any], names: Sequence[str]) -> Iterator[Any]:
    """Lists as objects, where they have as many values as there are names."""
    for row in rows:
        fits = isinstance(row, list) and len(row) == len(names)
        yield dict(zip(names, row, strict=True)) if fits else row


def _nested(name: str, value: Mapping[str, Any]) -> tuple[Iterable[Any], str] | None:
    """Objects in an object: columns of rows or rows of columns, where the row numbers show."""
    inner = [*value.values()]
    if not inner or not all(isinstance(entry, dict) for entry in inner):
        return None
    keys = [*inner[0]]
    if any([*entry] != keys for entry in inner) and not _are_numbers(value):
        raise NoRows(f"{name}: objects in an object, which have different keys; {EXPECTED}")
    outside, inside = _are_numbers(value), _are_numbers(keys)
    if inside and not outside:
        columns = {key: [*entry.values()] for key, entry in value.items()}
        return _by_row(columns), "an object for each column"
    if outside and not inside:
        return inner, "an object for each row"
    which = "which may be rows or columns: neither all outer nor all inner keys are numbers"
    raise NoRows(f"{name}: objects in an object, {which}; {EXPECTED}")


def _are_numbers(keys: Iterable[str]) -> bool:
    return all(key.isdecimal() for key in keys)
