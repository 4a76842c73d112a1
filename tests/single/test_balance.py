"""Each example has one rank, loads are even, and micro-batches respect the token budget."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.batching.balance import assign_to_ranks, cost, micro_batches

lengths = st.lists(st.integers(2, 512), min_size=1, max_size=80).map(np.array)


@given(lengths, st.integers(1, 9))
def test_every_example_has_one_owner_and_counts_differ_by_one(
    lengths: np.ndarray, workers: int
) -> None:
    owner = assign_to_ranks(cost(lengths, 1.0, 1e-3)[None], workers)[0]
    held = np.bincount(owner, minlength=workers)
    assert held.sum() == len(lengths) and len(held) == workers
    assert held.max() - held.min() <= 1


@given(lengths, st.integers(1, 2000))
def test_micro_batches_hold_every_example_once_within_the_budget(
    lengths: np.ndarray, budget: int
) -> None:
    pieces = micro_batches(lengths, budget)
    assert sorted(np.concatenate(pieces)) == list(range(len(lengths)))
    for piece in pieces:
        assert len(piece) == 1 or lengths[piece].sum() <= budget
        assert (np.diff(lengths[piece]) >= 0).all()


def test_a_worker_without_examples_has_no_micro_batch() -> None:
    assert micro_batches(np.array([], dtype=int), 100) == []


@pytest.mark.parametrize("workers", [2, 3, 4, 8, 16, 64])
def test_steps_are_balanced(workers: int) -> None:
    """With the lengths of reviews and 32 examples per worker, the slowest is within 0.5 %."""
    rng = np.random.default_rng(workers)
    tokens = np.minimum(np.exp(rng.normal(5.4, 0.62, (200, 32 * workers))).astype(int) + 8, 512)
    costs = cost(tokens, 1.0, 1 / 3000)
    owner = assign_to_ranks(costs, workers)
    loads = np.stack([np.where(owner == w, costs, 0).sum(1) for w in range(workers)], axis=1)
    ratio = loads.max(1) / loads.mean(1)
    assert ratio.mean() <= 1.005 and ratio.max() <= 1.02
