"""What a model learns of each row, as arrays: a class index, 0 or 1 for each class, or numbers."""

from typing import Any

import numpy as np

from distsent.data.row_arrays import blocks, count


def count_classes(targets: np.ndarray, n: int) -> np.ndarray:
    """Rows of each of `n` classes, int64 (n,); of numbers: (0,)."""
    if targets.ndim == 1:
        return count(targets, n)
    if targets.dtype.kind == "f":
        return np.empty(0, np.int64)
    total = np.zeros(targets.shape[1], np.int64)
    for some in blocks(len(targets)):
        total += targets[some].sum(axis=0, dtype=np.int64)
    return total


def first_rows(targets: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The row with the smallest key of each class that has one, int64, ascending; of numbers: none.

    Of equal keys the first counts.
    """
    first = dict[int, tuple[float, int]]()
    for some in blocks(len(targets) if targets.dtype.kind != "f" else 0):
        here = targets[some]
        rows, classes = (np.arange(len(here)), here) if here.ndim == 1 else np.nonzero(here)
        order = np.lexsort((keys[some][rows], classes))
        found, places = np.unique(classes[order], return_index=True)
        of_classes = some.start + rows[order[places]]
        for klass, row in zip(found.tolist(), of_classes.tolist(), strict=True):
            first[klass] = min(first.get(klass, (1.0, row)), (float(keys[row]), row))
    return np.unique(np.array([row for _, row in first.values()], np.int64))


def summary(targets: np.ndarray, n: int) -> dict[str, Any]:
    """What a token store says of them: the rows of each class, or a range for each number."""
    if targets.dtype.kind == "f":
        numbers = {"min": targets.min(0), "mean": targets.mean(0), "max": targets.max(0)}
        numbers["std"] = targets.std(0)
        return {"numbers": {name: some.tolist() for name, some in numbers.items()}}
    found: dict[str, Any] = {"classes": count_classes(targets, n).tolist()}
    if targets.ndim > 1:
        found["without"] = int(np.count_nonzero(~targets.any(axis=1)))
    return found
