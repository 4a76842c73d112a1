"""Calls of similar lengths hold every example, pad little, and are as few as that allows."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.batching.similar_lengths import MAX_PADDING, calls_of_similar_lengths

few = st.lists(st.integers(1, 30), min_size=1, max_size=9).map(sorted)


def padded_tokens(lengths: list[int], calls: list[tuple[int, int]]) -> int:
    return sum((b - a) * max(lengths[a:b]) for a, b in calls)


@given(few, st.sampled_from([0.5, 4.0, 30.0, math.inf]))
def test_no_other_calls_are_better(lengths: list[int], call_tokens: float) -> None:
    """Against all ways to part the examples."""
    n, by_calls = len(lengths), {}
    for cuts in itertools.chain.from_iterable(
        itertools.combinations(range(1, n), k) for k in range(n)
    ):
        calls = list(zip((0, *cuts), (*cuts, n), strict=True))
        least = by_calls.get(len(calls), math.inf)
        by_calls[len(calls)] = min(least, padded_tokens(lengths, calls))
    allowed = sum(lengths) / (1 - MAX_PADDING)
    fewest = min(k for k, tokens in by_calls.items() if tokens <= allowed)
    found = calls_of_similar_lengths(lengths, call_tokens)
    tokens = padded_tokens(lengths, found)
    assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])] and found[-1][1] == n
    assert tokens == by_calls[len(found)] <= allowed
    if math.isinf(call_tokens):
        assert len(found) == fewest
    else:
        costs = {k: by_calls[k] + k * call_tokens for k in by_calls if k >= fewest}
        assert costs[len(found)] == min(costs.values())


def test_examples_that_are_not_sorted_are_padded_to_the_longest_of_their_call() -> None:
    lengths = list(np.random.default_rng(0).integers(3, 60, 40))
    calls = calls_of_similar_lengths(lengths, 8.0)
    assert sum(b - a for a, b in calls) == 40
    assert padded_tokens(lengths, calls) <= sum(lengths) / (1 - MAX_PADDING)


@pytest.mark.parametrize(("lengths", "calls"), [([5], 1), ([7] * 50, 1), ([10, 30], 2)])
def test_by_hand(lengths: list[int], calls: int) -> None:
    assert len(calls_of_similar_lengths(lengths, math.inf)) == calls
