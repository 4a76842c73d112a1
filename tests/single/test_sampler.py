"""The sampler of examples: a permutation, equal on all workers, new in each epoch and seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.batching.sampler import BatchSampler, permute


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@given(
    n=st.integers(1, 500),
    size=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 5),
)
def test_an_epoch_holds_every_row_once_and_ends_with_the_short_batch(
    n: int, size: int, seed: int, epoch: int
) -> None:
    sampler = BatchSampler(n, size, seed)
    first = epoch * sampler.steps_per_epoch
    batches = [sampler.batch(first + k) for k in range(sampler.steps_per_epoch)]
    assert sorted(np.concatenate(batches)) == list(range(n))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert 1 <= len(batches[-1]) <= size


def test_each_epoch_and_seed_has_its_own_order() -> None:
    sampler = BatchSampler(1000, 1000, seed=1)
    assert (sampler.batch(0) != sampler.batch(1)).mean() > 0.99
    assert (sampler.batch(0) != BatchSampler(1000, 1000, seed=2).batch(0)).mean() > 0.99


def test_a_step_costs_its_batch_not_the_dataset() -> None:
    assert BatchSampler(10**12, 64, seed=3).batch(10**9).shape == (64,)


@pytest.mark.parametrize("n", [1000, 4096, 65537])
def test_the_order_looks_random(n: int) -> None:
    """Correlations and the spread over quarters stay within 5 sigma of chance."""
    for seed in range(5):
        rows = BatchSampler(n, n, seed).batch(0).astype(float)
        assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 5 / np.sqrt(n)
        assert abs(np.corrcoef(rows, np.arange(n))[0, 1]) < 5 / np.sqrt(n)
        counts, _ = np.histogram(rows[: n // 4], bins=4, range=(0, n))
        assert abs(counts - n / 16).max() < 5 * np.sqrt(n / 16)
