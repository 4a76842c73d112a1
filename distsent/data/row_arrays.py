"""Arrays with one or more values for each row: in files that are deleted at once, or short.

Memory does not grow with the number of rows where they are read and written in blocks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from distsent.data import row_cache

BLOCK = 1 << 16  # rows in memory at once
MOST_BYTES = 1 << 20  # of an array in memory


class RowArray:
    """An array that is written once, from its first row to its last."""

    def __init__(self, dtype: DTypeLike, values: tuple[int, ...] = ()) -> None:
        """`values`: the shape of those of a row."""
        self._dtype, self._values = np.dtype(dtype), values
        self._pieces, self._bytes = list[np.ndarray](), 0
        self._file: Any = None

    def append(self, values: np.ndarray) -> None:
        """Raises UserError where the cache folder of datasets has no space."""
        values = np.ascontiguousarray(values, self._dtype)
        self._bytes += values.nbytes
        self._pieces.append(values)
        if self._file or self._bytes > MOST_BYTES:
            with row_cache.writable("data.source") as folder:
                # Written, not mapped, until it is complete: a full disk kills who writes to a map
                self._file = self._file or tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
                for piece in self._pieces:
                    self._file.write(piece.data)
            self._pieces.clear()

    def done(self) -> np.ndarray:
        """The array, which cannot be written."""
        if not self._file:
            array = np.concatenate([np.empty((0, *self._values), self._dtype), *self._pieces])
            array.setflags(write=False)
            return array
        with row_cache.writable("data.source"), self._file as file:
            file.flush()
            return np.asarray(np.memmap(file, self._dtype, mode="r")).reshape(-1, *self._values)


def row_array(
    dtype: DTypeLike, pieces: Iterable[np.ndarray], values: tuple[int, ...] = ()
) -> np.ndarray:
    """All pieces, concatenated."""
    array = RowArray(dtype, values)
    for piece in pieces:
        array.append(piece)
    return array.done()


def blocks(count: int) -> Iterator[slice]:
    """The rows 0 to `count`, in blocks."""
    for first in range(0, count, BLOCK):
        yield slice(first, min(first + BLOCK, count))


def where(count: int, test: Callable[[slice], np.ndarray]) -> np.ndarray:
    """The rows for which `test`, bool for the rows of a block, is true: int64, ascending."""
    found = (some.start + np.flatnonzero(test(some)) for some in blocks(count))
    return row_array(np.int64, found)


def among(some: slice, rows: np.ndarray) -> np.ndarray:
    """Which rows of a block are among `rows`, which are ascending: bool."""
    first, end = np.searchsorted(rows, (some.start, some.stop))
    found = np.zeros(some.stop - some.start, bool)
    found[rows[first:end] - some.start] = True
    return found


def take(array: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The values at `rows`."""
    pieces = (array[rows[some]] for some in blocks(len(rows)))
    return row_array(array.dtype, pieces, array.shape[1:])


def keep(array: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values where `mask` is true."""
    return row_array(array.dtype, (array[some][mask[some]] for some in blocks(len(array))))


def count(array: np.ndarray, length: int = 0) -> np.ndarray:
    """How often each of the numbers from 0 on occurs, int64 (`length` or more,)."""
    total = np.zeros(length, np.int64)
    for some in blocks(len(array)):
        values = array[some]
        counts = np.bincount(values[values >= 0], minlength=len(total))
        counts[: len(total)] += total
        total = counts
    return total
