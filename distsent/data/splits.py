"""Which rows become training, validation and test rows: a pure function of labels, job and seed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from distsent.errors import UserError

if TYPE_CHECKING:
    from distsent.job.schema import DataSection

POOL = "pool"  # the name under which all splits are joined for data.pool_splits
VALIDATION, TEST, TRAIN_ROWS, EVAL_ROWS = (
    1,
    2,
    3,
    4,
)  # each draw has random numbers of its own, whatever else is drawn


def draws(data: DataSection) -> bool:
    """Whether the seed matters to the selection. Where it does not, runs of several seeds share one token store."""
    return bool(
        data.validation_fraction or data.test_fraction or data.max_rows or data.max_eval_rows
    )


def select(
    labels: dict[str, np.ndarray], usable: dict[str, np.ndarray], data: DataSection, seed: int
) -> dict[str, tuple[str, np.ndarray]]:
    """For each new split where its rows come from: (old split, ascending rows, int64).

    `labels`: class indices of all rows of the old splits, (n,); `usable`: the rows of them that count.
    """
    cuts = {
        "validation": (data.validation_fraction, VALIDATION),
        "test": (data.test_fraction, TEST),
    }
    base = POOL if POOL in usable else "train"
    chosen = {name: (name, rows) for name, rows in usable.items() if name != base}
    rest = all_rows = usable[base]
    for name, (fraction, purpose) in cuts.items():
        if fraction:
            # Shares of all rows, not of what an earlier cut has left
            part = stratified(
                rest, labels[base], round(fraction * len(all_rows)), _random(seed, purpose)
            )
            if len(part) == 0:
                raise UserError(
                    f"data.{name}_fraction = {fraction}: of {len(all_rows):,} rows that is not one"
                )
            chosen[name], rest = (base, part), np.setdiff1d(rest, part, assume_unique=True)
    chosen["train"] = (base, draw(rest, data.max_rows, _random(seed, TRAIN_ROWS)))
    for offset, name in enumerate(cuts):
        if name in chosen:
            source, rows = chosen[name]
            chosen[name] = source, draw(rows, data.max_eval_rows, _random(seed, EVAL_ROWS + offset))
    return {name: chosen[name] for name in ("train", *cuts) if name in chosen}


def whole(usable: dict[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    """Every split as it is, in the form of `select`."""
    return {name: (name, rows) for name, rows in usable.items()}


def demand(splits: dict[str, int], data: DataSection) -> None:
    """Raises UserError unless these splits, with so many rows each, give what the job asks for."""
    fractions = {"validation": data.validation_fraction, "test": data.test_fraction}
    lines = [
        f"data.{name}_fraction = {fraction}: the corpus has a {name} split of its own ({splits[name]:,} rows); leave "
        "the fraction out to use it, or join and cut all rows anew with data.pool_splits = true"
        for name, fraction in fractions.items()
        if fraction and name in splits
    ]
    if POOL not in splits and "train" not in splits:
        lines.append(
            f"the corpus has no train split, only {' and '.join(splits)}: data.pool_splits = true joins what there is "
            "and cuts it anew by data.validation_fraction and data.test_fraction"
        )
    elif len(splits) == 1 and not any(fractions.values()):
        what = (
            "data.pool_splits = true"
            if POOL in splits
            else "the corpus has neither a validation nor a test split"
        )
        lines.append(f"{what}: set data.validation_fraction or data.test_fraction, e.g. 0.1")
    if lines:
        raise UserError(*lines)


def stratified(
    rows: np.ndarray, labels: np.ndarray, size: int, random: np.random.Generator
) -> np.ndarray:
    """`size` of `rows`, ascending, in which each class has its share as exactly as whole rows allow."""
    classes, members = np.unique(labels[rows], return_inverse=True)
    counts = np.bincount(members, minlength=len(classes))
    shares = size * counts / max(1, len(rows))
    takes = np.floor(shares).astype(np.int64)
    biggest_rest = np.argsort(-(shares - takes), kind="stable")
    takes[biggest_rest[: size - takes.sum()]] += 1
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
    # PCG64's bits are promised to stay; permutation() and choice() are not, so only random() is used above.
    return np.random.Generator(np.random.PCG64([seed, purpose]))
