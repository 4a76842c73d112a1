"""Cuts and draws: sizes, shares of the classes, and what becomes of rare ones."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.data.labels.classes import Labels
from distsent.data.labels.names import Naming
from distsent.data.splits import POOL, draw_all_classes, select_rows, stratified
from distsent.errors import UserError
from tests.dataset_files import data

COUNTS = st.lists(st.one_of(st.integers(1, 3), st.integers(1, 60)), min_size=1, max_size=12)
SEEDS = st.integers(0, 2**32 - 1)


def shuffled(counts: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Some rows, and the labels of all rows: -1 for those that do not count."""
    classes = np.random.default_rng(len(counts)).permutation(np.repeat(range(len(counts)), counts))
    rows = np.arange(len(classes)) * 3
    labels = np.full(rows[-1] + 1, -1)
    labels[rows] = classes
    return rows, labels


def select(counts: Sequence[int], seed: int, **keys: float):
    """(labels of all rows, selection) of a dataset with these numbers of rows per class."""
    rows, codes = shuffled(counts)
    names = tuple(map(str, range(len(counts))))
    labels = Labels(names, {POOL: codes}, {}, [], Naming(), "")
    return codes, select_rows(labels, {POOL: rows}, data("x", **keys), seed)


@given(counts=COUNTS, fraction=st.floats(0.02, 0.9), seed=SEEDS)
def test_a_cut_takes_each_class_its_share_and_leaves_a_row(counts, fraction, seed):
    rows, labels = shuffled(counts)
    size = round(fraction * len(rows))
    part = stratified(rows, labels, size, np.random.default_rng(seed))
    taken = np.bincount(labels[part], minlength=len(counts))
    assert len(part) <= size and set(part) <= set(rows) and (np.diff(part) > 0).all()
    assert (taken < counts).all()
    exact = size * np.array(counts) / len(rows)
    assert (np.abs(taken - exact) < 1).all() or size == len(rows)
    # Smaller than asked only if every class has given all it can
    rounded_up = np.minimum(np.ceil(exact), np.array(counts) - 1)
    assert len(part) == size or (taken == rounded_up).all()


@given(
    counts=st.lists(st.integers(2, 60), min_size=2, max_size=12),
    validation=st.floats(0.02, 0.45),
    test=st.floats(0.02, 0.45),
    most=st.one_of(st.none(), st.integers(12, 80)),
    seed=SEEDS,
)
def test_both_cuts_and_a_draw_leave_every_class_in_train(counts, validation, test, most, seed):
    keys = {"validation_fraction": validation, "test_fraction": test, "max_rows": most}
    total = sum(counts)
    if not round(validation * total) or not round(test * total):
        return
    try:
        codes, (chosen, notes) = select(counts, seed, pool_splits=True, **keys)
    except UserError as error:  # the first cut has taken what the classes can spare
        assert "data.test_fraction" in str(error) and "selects no rows" in str(error)
        return
    assert set(codes[chosen["train"][1]]) == set(range(len(counts)))
    parts = [rows for _, rows in chosen.values()]
    assert len(np.unique(np.concatenate(parts))) == sum(map(len, parts))
    for name, fraction in (("validation", validation), ("test", test)):
        short = len(chosen[name][1]) < round(fraction * total)
        assert short == any(line.startswith(f"{name}: ") for line in notes)


def test_rare_classes_are_drawn_by_chance_and_not_by_their_order():
    """60 classes of 2 rows: a cut of a fifth takes a row of 24 of them."""
    taken = np.zeros(60)
    for seed in range(200):
        rows, labels = shuffled([2] * 60)
        part = stratified(rows, labels, 24, np.random.default_rng(seed))
        assert len(part) == len(np.unique(labels[part])) == 24
        taken[labels[part]] += 1
    # 80 of 200 expected, standard deviation 7
    assert taken.min() > 45 and taken.max() < 115


def test_classes_of_one_row_stay_in_train():
    """40 rows of two classes, and 60 classes of one row."""
    codes, (chosen, notes) = select(
        [20, 20] + [1] * 60, 1, pool_splits=True, validation_fraction=0.2, test_fraction=0.2
    )
    assert {name: len(rows) for name, (_, rows) in chosen.items()} == {
        "train": 84, "validation": 8, "test": 8
    }  # fmt: skip
    assert notes == [
        f"{name}: 8 rows instead of 20: train keeps a row of each class, and some have too few "
        "to share"
        for name in ("validation", "test")
    ]
    assert set(codes[chosen["train"][1]]) == set(range(62))


@pytest.mark.parametrize("counts", [[100], [300, 500, 200], [7, 90, 33, 12]])
def test_a_draw_is_uniform_where_that_has_all_classes(counts):
    rows, labels = shuffled(counts)
    for seed in range(20):
        drawn = draw_all_classes(rows, labels, 40, np.random.default_rng(seed))
        keys = np.random.default_rng(seed).random(len(rows))
        uniform = np.sort(rows[np.argsort(keys, kind="stable")[:40]])
        kept = set(labels[uniform]) == set(labels[rows])
        assert set(labels[drawn]) == set(labels[rows])
        assert not kept or (drawn == uniform).all()


@given(counts=COUNTS, seed=SEEDS, sizes=st.lists(st.integers(1, 100), min_size=2, max_size=4))
def test_larger_draws_contain_smaller_ones(counts, seed, sizes):
    rows, labels = shuffled(counts)
    draws = [
        draw_all_classes(rows, labels, most, np.random.default_rng(seed)) for most in sorted(sizes)
    ]
    for most, drawn in zip(sorted(sizes), draws, strict=True):
        assert len(drawn) == min(most, len(rows)) and (np.diff(drawn) > 0).all()
        assert len(set(labels[drawn])) == min(most, len(counts))
    assert all(set(a) <= set(b) for a, b in pairwise(draws))
