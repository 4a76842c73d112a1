"""What a model learns of each row, as arrays: a class index, 0 or 1 for each class, or numbers."""

from typing import Any

import numpy as np


def count_classes(targets: np.ndarray, n: int) -> np.ndarray:
    """Rows of each of `n` classes, int64 (n,); of numbers: (0,)."""
    if targets.ndim == 1:
        return np.bincount(targets, minlength=n)
    if targets.dtype.kind == "f":
        return np.empty(0, np.int64)
    return np.asarray(targets.sum(axis=0, dtype=np.int64))


def first_rows(targets: np.ndarray) -> np.ndarray:
    """The first row of each class that has one, int64, ascending; of numbers: none."""
    if targets.ndim == 1:
        return np.sort(np.unique(targets, return_index=True)[1])
    if targets.dtype.kind == "f":
        return np.empty(0, np.int64)
    return np.unique(targets.argmax(axis=0)[targets.any(axis=0)])


def stored(targets: np.ndarray) -> np.ndarray:
    """As a token store keeps them."""
    return targets.astype(np.int32) if targets.ndim == 1 else targets


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
