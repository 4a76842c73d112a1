"""Which rows become train, validation and test: a pure function of labels, job and seed."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.random import PCG64, Generator

from distsent.data.labels.classes import Labels
from distsent.data.labels.targets import count_classes, first_rows
from distsent.data.labels.values import quote
from distsent.data.row_arrays import among, blocks, count, keep, row_array, take, where
from distsent.data.rows import SPLITS
from distsent.data.several_strata import draw_share
from distsent.errors import UserError
from distsent.job.schema import DataSection

POOL = "pool"  # the name of all splits together, for data.pool_splits
# Each draw has its own random numbers, whatever else is drawn
VALIDATION, TEST, TRAIN_ROWS, EVAL_ROWS = 1, 2, 3, 4
CELLS = 1 << 16  # groups of keys that are counted before the few that matter are sorted


class Selection(NamedTuple):
    """Which rows become which split."""

    chosen: dict[str, tuple[str, np.ndarray]]  # per new split: old split, rows, int64 ascending
    notes: list[str]  # where classes are too rare for the job, a line each


def select_rows(
    labels: Labels, good: dict[str, np.ndarray], data: DataSection, seed: int
) -> Selection:
    """The new splits. `labels`: of all rows of the old splits; `good`: their rows that count.

    Train keeps a row of each class, unless data.max_rows is less than their number.
    """
    base = POOL if POOL in good else "train"
    chosen = {name: (name, rows) for name, rows in good.items() if name != base}
    parts, notes = _divide(labels, good[base], base, data, seed)
    return keep_rows(labels, chosen | parts, data, seed, notes)


def _divide(
    labels: Labels, all_rows: np.ndarray, base: str, data: DataSection, seed: int
) -> tuple[dict[str, tuple[str, np.ndarray]], list[str]]:
    """Train, and the parts of `all_rows` that become validation and test; notes."""
    chosen, notes = dict[str, tuple[str, np.ndarray]](), list[str]()
    cuts = {
        "validation": (data.validation_fraction, VALIDATION),
        "test": (data.test_fraction, TEST),
    }
    rest = all_rows
    for name, (fraction, purpose) in cuts.items():
        if fraction:
            # Shares of all rows, not of what an earlier cut has left
            size = round(fraction * len(all_rows))
            part = draw_part(rest, labels.targets(base), size, _random(seed, purpose))
            if len(part) == 0:
                n = len(all_rows)
                raise UserError(f"data.{name}_fraction = {fraction}: selects no rows out of {n:,}")
            if len(part) < size:
                why = "train keeps a row of each class, and some have too few to share"
                notes.append(f"{name}: {len(part):,} rows instead of {size:,}: {why}")
            chosen[name], rest = (base, part), _without(rest, part)
    return chosen | {"train": (base, rest)}, notes


def keep_rows(
    labels: Labels,
    chosen: Mapping[str, tuple[str, np.ndarray]],
    data: DataSection,
    seed: int,
    notes: Sequence[str] = (),
) -> Selection:
    """At most data.max_rows rows of train, and data.max_eval_rows of each other split.

    `chosen`: per split the old one that its rows are of, and these.
    """
    found, lines = dict(chosen), [*notes]
    for offset, name in enumerate(SPLITS):
        if name in found:
            source, rows = found[name]
            key = "max_eval_rows" if offset else "max_rows"
            random = _random(seed, TRAIN_ROWS + offset)
            most, targets, n = getattr(data, key), labels.targets(source), len(labels.names)
            drawn = (
                draw(rows, most, random)
                if offset
                else draw_all_classes(rows, targets, most, random)
            )
            found[name] = source, drawn
            if drawn is rows:
                continue
            before, after = (count_classes(take(targets, some), n) for some in (rows, drawn))
            lost = np.flatnonzero((before > 0) & (after == 0))
            if len(lost):
                some = f"{len(drawn):,} rows that data.{key} selected"
                names = quote(labels.names[code] for code in lost)
                lines.append(f"{name}: the {some} contain none of {names}")
    return Selection({name: found[name] for name in SPLITS if name in found}, lines)


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


def draw_part(rows: np.ndarray, targets: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """About `size` of `rows`, ascending, with their share of each class; of numbers: at random."""
    if targets.ndim == 1:
        return stratified(rows, targets, size, rng)
    if targets.dtype.kind == "f":
        return draw(rows, size, rng)
    return draw_share(rows, targets, size, rng)


def stratified(rows: np.ndarray, labels: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """About `size` of `rows`, ascending: of each class its exact share, rounded up or down.

    Leaves a row of each class. The part is smaller where classes are too rare for that.
    """
    members, keys = take(labels, rows), _keys(rng, len(rows))
    counts = count(members)
    classes = np.flatnonzero(counts)
    counts = counts[classes]
    shares = size * counts / max(1, len(rows))
    takes = np.minimum(np.floor(shares).astype(np.int64), np.maximum(counts - 1, 0))
    # By chance among the rare, where the order of the classes would favor the first ones
    tie = np.where(shares >= 1, -1.0, rng.random(len(classes)))
    largest_rest = np.lexsort((tie, takes - shares))
    able = largest_rest[(shares > takes)[largest_rest] & (takes + 1 < counts)[largest_rest]]
    takes[able[: size - takes.sum()]] += 1
    most = np.zeros(classes.max(initial=0) + 1, np.int64)
    most[classes] = takes
    return keep(rows, smallest(keys, members, most))


def draw(rows: np.ndarray, most: int | None, rng: Generator) -> np.ndarray:
    """At most `most` of `rows`, drawn without replacement, ascending."""
    if most is None or most >= len(rows):
        return rows
    together = np.broadcast_to(np.uint8(0), len(rows))
    return keep(rows, smallest(_keys(rng, len(rows)), together, np.array([most])))


def draw_all_classes(
    rows: np.ndarray, labels: np.ndarray, most: int | None, rng: Generator
) -> np.ndarray:
    """As `draw`, but with a row of every class, or of as many classes as `most` allows.

    The same rows as `draw` takes where these have all classes. Larger draws contain smaller ones.
    """
    if most is None or most >= len(rows):
        return rows
    keys = _keys(rng, len(rows))
    first_of_class = first_rows(take(labels, rows), keys)
    masks = (among(some, first_of_class).astype(np.uint8) for some in blocks(len(rows)))
    needed = min(most, len(first_of_class))
    takes = np.array([most - needed, needed])
    return keep(rows, smallest(keys, row_array(np.uint8, masks), takes))


def smallest(keys: np.ndarray, groups: np.ndarray, takes: np.ndarray) -> np.ndarray:
    """Which rows have the `takes[g]` smallest keys of their group g, bool (n,).

    `keys`: in [0, 1). Of equal ones the first count. Sorts only those near the largest taken.
    """
    bins = max(1, CELLS // len(takes))
    cells = (groups[some] * np.int64(bins) + _bins(keys[some], bins) for some in blocks(len(keys)))
    before = np.zeros((len(takes), bins + 1), np.int64)
    for some in cells:
        before[:, 1:] += np.bincount(some, minlength=len(takes) * bins).reshape(-1, bins)
    before.cumsum(axis=1, out=before)
    # The bin in which a group's last taken row lies
    last = np.count_nonzero(before[:, 1:] < takes[:, None], axis=1)
    near = where(len(keys), lambda some: _bins(keys[some], bins) == last[groups[some]])
    near = near[np.lexsort((keys[near], groups[near]))]
    members = groups[near]
    place = np.arange(len(near)) - np.searchsorted(members, members)
    taken = np.sort(near[place < (takes - before[np.arange(len(takes)), last])[members]])

    below = (_bins(keys[some], bins) < last[groups[some]] for some in blocks(len(keys)))
    taken_near = (among(some, taken) for some in blocks(len(keys)))
    return row_array(bool, map(np.logical_or, below, taken_near))


def _bins(keys: np.ndarray, bins: int) -> np.ndarray:
    return (keys * bins).astype(np.int64)


def _keys(rng: Generator, n: int) -> np.ndarray:
    return row_array(np.float64, (rng.random(some.stop - some.start) for some in blocks(n)))


def _without(rows: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The rows that are not in `part`. Both are ascending."""

    def other(some: slice) -> np.ndarray:
        first, end = np.searchsorted(part, (rows[some.start], rows[some.stop - 1] + 1))
        return np.setdiff1d(rows[some], part[first:end], assume_unique=True)

    return row_array(rows.dtype, map(other, blocks(len(rows))))


def _random(seed: int, purpose: int) -> Generator:
    # NumPy promises to keep the bits of PCG64 and random(), not permutation() and choice()
    return Generator(PCG64([seed, purpose]))
