"""Which examples form step k: a pure function of (seed, k), whatever the number of workers.

An epoch is a permutation of the rows that is computed point by point (a Feistel cipher on the row number, walked until
it lands inside the corpus), so nothing is stored and nothing is shuffled: any step of any epoch costs its batch alone,
and the state of the data is one integer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distsent.batching.hashing import M1, mix, word

ROUNDS = 6


def permute(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """The images of `index` (any shape, values in [0, n)) under the key's permutation of range(n). Time O(len(index))."""
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = mix(np.arange(1, ROUNDS + 1, dtype=np.uint64) + word(key) * M1)

    def encrypt(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for k in keys:
            left, right = right, left ^ (mix(right ^ k) & mask)
        return (left << half) | right

    image = encrypt(np.asarray(index, dtype=np.uint64))
    while (
        outside := image >= np.uint64(n)
    ).any():  # the domain is less than 4 n: under 4 rounds expected
        image[outside] = encrypt(image[outside])
    return image.astype(np.int64)


@dataclass(frozen=True)
class BatchSampler:
    """The training rows of every step. The last batch of an epoch is the shorter one and is trained too."""

    rows: int
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    def batch(self, step: int) -> np.ndarray:
        """Rows of global batch `step` (counted from 0, through all epochs), int64."""
        return self.batches(step, 1)

    def batches(self, step: int, count: int) -> np.ndarray:
        """Rows of `count` global batches from `step` on, end to end; none of the next epoch."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        index = np.arange(start, min(start + count * self.batch_size, self.rows))
        key = mix(word(self.seed) ^ mix(word(epoch + 1)))
        return permute(index, self.rows, int(key[0]))
