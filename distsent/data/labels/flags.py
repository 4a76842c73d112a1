"""Lists of 0 and 1 with a place for each class, as programs that train write them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from distsent.data.labels.names import Naming
from distsent.data.labels.values import count_labels, label_indices, quote
from distsent.data.rows import Part, Rows
from distsent.errors import UserError

YES_OR_NO = {word: value for value, words in enumerate((("0", "false", "False", "FALSE"),
                                                        ("1", "true", "True", "TRUE")))
             for word in words}  # fmt: skip


class Lists(NamedTuple):
    """The lists of some rows, end to end."""

    values: Rows
    counts: np.ndarray  # values of each row, int64 (n,)
    missing: np.ndarray  # rows without a list, bool (n,)


def count_places(lists: Mapping[str, Lists], naming: Naming) -> int:
    """The length of all lists, if each has a 0 or a 1 for each class; 0 if they have labels.

    Class numbers never repeat in a list. So lists of equal length with 0 and 1 alone are no numbers
    of classes.
    """
    sizes = {int(n) for some in lists.values() for n in np.unique(some.counts[~some.missing])}
    if len(sizes) != 1 or (size := sizes.pop()) < 2:
        return 0
    if size == 2 and naming.trained and len(naming.names) != 2:
        return 0  # of longer lists each has a number twice
    for some in lists.values():
        for part in some.values.parts:
            words = count_labels(part, some.values.columns.label)
            if part.label_names or not words.keys() <= YES_OR_NO.keys():
                return 0
    return size


def to_places(lists: Lists, names: tuple[str, ...]) -> Lists:
    """The lists of the places that have a 1, of lists with a place for each of `names`."""
    size = len(names)
    column, parts, sums = lists.values.columns.label, list[Part](), [np.empty(0, np.int64)]
    for part in lists.values.parts:
        codes = [*label_indices(part, column, YES_OR_NO, 0)]
        ones = np.concatenate([*codes, np.empty(0, np.int32)])
        at = np.flatnonzero(ones)
        table = pa.table({column: pa.array((at % size).astype(str), pa.string())})
        of = part.lists and (part.lists[0], part.lists[1][at])
        parts.append(replace(part, table=table, lists=of, label_names=names))
        sums.append(ones.reshape(-1, size).sum(axis=1, dtype=np.int64))
    counts = np.zeros_like(lists.counts)
    counts[~lists.missing] = np.concatenate(sums)
    return Lists(Rows(parts, lists.values.columns), counts, lists.missing)


def name_places(naming: Naming, size: int, where: str) -> tuple[str, ...]:
    """The names of the places: those of data.labels in their order, or else their numbers.

    Raises UserError for another number of names.
    """
    places = tuple(str(place) for place in range(size))
    if naming.table is not None and not naming.trained:
        return places
    names = naming.names or naming.numbered or places
    if len(names) != size:
        found = f"lists of 0 and 1 with {size} places, and {len(names)} names"
        raise UserError(f"{where}: {found} ({quote(names, marks=False)}): one for each place")
    return names


def note_places(names: tuple[str, ...], where: str) -> str:
    """What the user should know."""
    found = f"{where}: lists of 0 and 1, with a place for each of {len(names)} classes"
    shown = quote((f"{i} = {name}" for i, name in enumerate(names) if name != str(i)), marks=False)
    return f"{found}: {shown}" if shown else found
