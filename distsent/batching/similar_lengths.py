"""Which examples share a call of an encoder that runs padded: those of similar lengths.

A call pads its examples to the longest of them. More calls mean less padding, but each costs a
fixed time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_PADDING = 0.1  # of all tokens of the calls, padding included


def calls_of_similar_lengths(lengths: Sequence[int], call_tokens: float) -> list[tuple[int, int]]:
    """Ranges [a, b) of examples that share a call, whose padding is at most MAX_PADDING.

    With the fewest calls that reach this, or more, where each saves at least `call_tokens` tokens
    of padding. Exact, and in time calls x (distinct lengths)^2. Lengths that are sorted pad least.
    """
    longest_n = np.maximum.accumulate(np.asarray(lengths))  # a bound, if they are not sorted
    # Neighbors of one length never part: D runs of them.
    ends_D = np.flatnonzero(np.diff(lengths, append=-1)) + 1
    starts_D = np.append(0, ends_D[:-1])
    tokens_DD = (ends_D - starts_D[:, None]) * longest_n[ends_D - 1].astype(np.float64)
    tokens_DD[np.tril_indices(len(ends_D), -1)] = np.inf  # of a call from run i to run j
    limit = sum(lengths) / (1 - MAX_PADDING)
    cuts: list[np.ndarray] = []  # of each call but the first: its first run, by its last one
    least_D = tokens_DD[0]  # tokens with the calls so far, for the examples up to each run
    while len(cuts) + 1 < len(ends_D):
        parted_DD = tokens_DD[1:] + least_D[:-1, None]
        fewer = parted_DD.min(axis=0)
        # What a call saves shrinks with their number: no later one would pay, either.
        if least_D[-1] <= limit and least_D[-1] - fewer[-1] < call_tokens:
            break
        least_D, cuts = fewer, [*cuts, 1 + parted_DD.argmin(axis=0)]
    bounds, j = [len(lengths)], len(ends_D) - 1
    for first_D in reversed(cuts):
        bounds.append(int(starts_D[first_D[j]]))
        j = int(first_D[j]) - 1
    bounds.append(0)
    return list(zip(bounds[::-1], bounds[-2::-1], strict=False))
