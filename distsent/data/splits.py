"""Which rows become train, validation and test: a pure function of labels, job and seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distsent.errors import UserError

if TYPE_CHECKING:
    from distsent.job.schema import DataSection

POOL = "pool"  # the name of all splits together, for data.pool_splits
# Each draw has its own random numbers, whatever else is drawn
VALIDATION, TEST, TRAIN_ROWS, EVAL_ROWS = 1, 2, 3, 4


def draws(data: DataSection) -> bool:
    """Whether the selection depends on the seed. If not, runs of several seeds share a store."""
    fractions = data.validation_fraction or data.test_fraction
    return bool(fractions or data.max_rows or data.max_eval_rows)


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
                what = f"data.{name}_fraction = {fraction}"
                raise UserError(f"{what}: selects no rows out of {len(all_rows):,}")
            chosen[name], rest = (base, part), np.setdiff1d(rest, part, assume_unique=True)
    chosen["train"] = (base, draw(rest, data.max_rows, _random(seed, TRAIN_ROWS)))
    for offset, name in enumerate(cuts):
        if name in chosen:
            source, rows = chosen[name]
            rows = draw(rows, data.max_eval_rows, _random(seed, EVAL_ROWS + offset))
            chosen[name] = source, rows
    return {name: chosen[name] for name in ("train", *cuts) if name in chosen}


def check_splits(splits: dict[str, int], data: DataSection) -> None:
    """Raises UserError unless these splits (name: rows) give what the job needs."""
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    lines = [
        f"data.{name}_fraction = {fraction}: the dataset has its own {name} split "
        f"({splits[name]:,} rows); leave the fraction out to use it, or set data.pool_splits = "
        "true to join all rows and cut them again"
        for name, fraction in fractions.items()
        if fraction and name in splits
    ]
    if POOL not in splits and "train" not in splits:
        lines.append(
            f"the dataset has no train split, only {' and '.join(splits)}: data.pool_splits = true "
            "joins all rows and cuts them by data.validation_fraction and data.test_fraction"
        )
    elif len(splits) == 1 and not any(fractions.values()):
        lack = "the dataset has neither a validation nor a test split"
        what = "data.pool_splits = true" if POOL in splits else lack
        lines.append(f"{what}: set data.validation_fraction or data.test_fraction, e.g. 0.1")
    if lines:
        raise UserError(*lines)


def stratified(
    rows: np.ndarray, labels: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """`size` of `rows`, ascending, with the share of each class as exact as integers allow."""
    classes, members = np.unique(labels[rows], return_inverse=True)
    counts = np.bincount(members, minlength=len(classes))
    shares = size * counts / max(1, len(rows))
    takes = np.floor(shares).astype(np.int64)
    largest_rest = np.argsort(-(shares - takes), kind="stable")
    takes[largest_rest[: size - takes.sum()]] += 1
    order = np.lexsort((random.random(len(rows)), members))
    starts = np.cumsum(counts) - counts
    taken = [order[start : start + take] for start, take in zip(starts, takes, strict=True)]
    return np.sort(rows[np.concatenate(taken)]) if taken else rows[:0]


def draw(rows: np.ndarray, most: int | None, random: np.random.Generator) -> np.ndarray:
    """At most `most` of `rows`, drawn without replacement, ascending."""
    if most is None or most >= len(rows):
        return rows
    return np.sort(rows[np.argsort(random.random(len(rows)), kind="stable")[:most]])


def _random(seed: int, purpose: int) -> np.random.Generator:
    # NumPy promises to keep the bits of PCG64 and random(), not permutation() and choice()
    return np.random.Generator(np.random.PCG64([seed, purpose]))
