"""Where the rows of a split come from, kept with their tokens: file and row, as audits name them.

Not of train: only rows that are scored are named one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from distsent.data.dataset import Split
from distsent.data.row_arrays import blocks, row_array


def parts_of(split: Split) -> list[tuple[str, int]]:
    """(name, number of its first row, from 0) for each file of the split's source."""
    starts = split.source.starts.tolist()
    return [(part.name, first) for part, first in zip(split.source.parts, starts, strict=False)]


def places_of(split: Split) -> dict[str, np.ndarray]:
    """Under "places": number and file of each row, b"17 all.csv" (n,); {} where `parts_of` tells.

    It does not where some rows of a file are read, or each row is a file.
    """
    if all(part.is_counted for part in split.source.parts):
        return {}

    def block(some: slice) -> np.ndarray:
        places = (split.source.place(row) for row in split.rows[some].tolist())
        return np.array([f"{number or 1} {file}".encode() for file, number in places])

    widest = max(block(some).itemsize for some in blocks(len(split)))
    return {"places": row_array(f"S{widest}", map(block, blocks(len(split))))}


def place_of(
    row: int, number: int, parts: Sequence[Sequence[Any]], places: np.ndarray | None
) -> tuple[str, int]:
    """(file, number in it from 1) of a row of the split, which has this number in its source."""
    if places is not None:
        digits, _, file = bytes(places[row]).decode().partition(" ")
        return file, int(digits)
    name, first = next(part for part in reversed(parts) if part[1] <= number)
    return str(name), number - int(first) + 1
