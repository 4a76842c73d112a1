"""Which rows become train, validation and test: a pure function of labels, job and seed."""

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator

from distsent.errors import UserError
from distsent.job.schema import DataSection

POOL = "pool"  # the name of all splits together, for data.pool_splits
# Each draw has its own random numbers, whatever else is drawn
VALIDATION, TEST, TRAIN_ROWS, EVAL_ROWS = 1, 2, 3, 4


def select_rows(
    labels: dict[str, np.ndarray], good: dict[str, np.ndarray], data: DataSection, seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """For each new split where its rows come from: (old split, rows, int64 ascending).

    `labels`: class indices of all rows of the old splits, (n,); `good`: their rows that count.
    """
    validation, test = data.validation_fraction, data.test_fraction
    cuts = {"validation": (validation, VALIDATION), "test": (test, TEST)}
    base = POOL if POOL in good else "train"
    chosen = {name: (name, rows) for name, rows in good.items() if name != base}
    rest = all_rows = good[base]
    for name, (fraction, purpose) in cuts.items():
        if fraction:
            # Shares of all rows, not of what an earlier cut has left
            size = round(fraction * len(all_rows))
            part = stratified(rest, labels[base], size, _random(seed, purpose))
            if len(part) == 0:
                n = len(all_rows)
                raise UserError(f"data.{name}_fraction = {fraction}: selects no rows out of {n:,}")
            chosen[name], rest = (base, part), np.setdiff1d(rest, part, assume_unique=True)
    chosen["train"] = (base, draw(rest, data.max_rows, _random(seed, TRAIN_ROWS)))
    for offset, name in enumerate(cuts):
        if name in chosen:
            source, rows = chosen[name]
            rows = draw(rows, data.max_eval_rows, _random(seed, EVAL_ROWS + offset))
            chosen[name] = source, rows
    return {name: chosen[name] for name in ("train", *cuts) if name in chosen}


def find_split_errors(
    splits: Collection[str], data: DataSection
) -> tuple[list[str], dict[str, Any]]:
    """A line for each split that the job needs and these do not give, and a fix."""
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    how = "remove the fraction to use it, or set data.pool_splits = true to split all rows again"
    lines, fix = list[str](), dict[str, Any]()
    for name, fraction in fractions.items():
        if fraction and name in splits:
            own = f"the dataset has its own {name} split"
            lines.append(f"data.{name}_fraction = {fraction}: {own}; {how}")
            fix[f"data.{name}_fraction"] = 0.0
    if POOL not in splits and "train" not in splits:
        lack = f"the dataset has no train split, only {' and '.join(splits)}"
        how = "joins all rows and splits them by data.validation_fraction and data.test_fraction"
        lines.append(f"{lack}: data.pool_splits = true {how}")
        fix |= {"data.pool_splits": True, "data.validation_fraction": 0.1}
    elif len(splits) == 1 and not any(fractions.values()):
        lack = "the dataset has neither a validation nor a test split"
        what = "data.pool_splits = true" if POOL in splits else lack
        lines.append(f"{what}: set data.validation_fraction or data.test_fraction, e.g. 0.1")
        fix["data.validation_fraction"] = 0.1
    return lines, fix


def stratified(rows: np.ndarray, labels: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """`size` of `rows`, ascending, with the share of each class as exact as integers allow."""
    classes, members = np.unique(labels[rows], return_inverse=True)
    counts = np.bincount(members, minlength=len(classes))
    shares = size * counts / max(1, len(rows))
    takes = np.floor(shares).astype(np.int64)
    largest_rest = np.argsort(-(shares - takes), kind="stable")
    takes[largest_rest[: size - takes.sum()]] += 1
    order = np.lexsort((rng.random(len(rows)), members))
    starts = np.cumsum(counts) - counts
    taken = [order[start : start + take] for start, take in zip(starts, takes, strict=True)]
    return np.sort(rows[np.concatenate(taken)]) if taken else rows[:0]


def draw(rows: np.ndarray, most: int | None, rng: Generator) -> np.ndarray:
    """At most `most` of `rows`, drawn without replacement, ascending."""
    if most is None or most >= len(rows):
        return rows
    return np.sort(rows[np.argsort(rng.random(len(rows)), kind="stable")[:most]])


def _random(seed: int, purpose: int) -> Generator:
    # NumPy promises to keep the bits of PCG64 and random(), not permutation() and choice()
    return Generator(PCG64([seed, purpose]))
