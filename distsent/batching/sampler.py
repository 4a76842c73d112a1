"""Which examples form step k: a pure function of (seed, k), whatever the number of workers.

An epoch is a permutation of the rows that is computed point by point (a Feistel cipher on the row
number, repeated until the result is a row number). Nothing is stored or shuffled: any step of any
epoch costs only its own batch, and the state of the sampler is one integer.
"""

import math
from dataclasses import dataclass

import numpy as np

from distsent.batching.hashing import M1, mix, word

ROUNDS = 6


def permute(index: np.ndarray, n: int, key: int) -> np.ndarray:
    """Map `index` (any shape, values in [0, n)) by the key's permutation of range(n).

    Takes time O(len(index)).
    """
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = np.uint64((1 << int(half)) - 1)
    keys = mix(np.arange(1, ROUNDS + 1, dtype=np.uint64) + word(key) * M1)

    def encrypt(x: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & mask
        for k in keys:
            left, right = right, left ^ (mix(right ^ k) & mask)
        return (left << half) | right

    image = encrypt(np.asarray(index, dtype=np.uint64))
    # The cipher's domain is smaller than 4 n, so under 4 rounds are expected.
    while (outside := image >= np.uint64(n)).any():
        image[outside] = encrypt(image[outside])
    return image.astype(np.int64)


@dataclass(frozen=True)
class BatchSampler:
    """The training rows of each step. The last, shorter batch of an epoch is trained too.

    A batch has at most all rows.
    """

    rows: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", min(self.batch_size, max(1, self.rows)))

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.batch_size)

    def total_steps(self, epochs: float, max_steps: int | None = None) -> int:
        """Steps of a run: `max_steps`, or the epochs, with a part of a step rounded up."""
        return max_steps or max(1, math.ceil(epochs * self.steps_per_epoch - 1e-9))

    def batch(self, step: int) -> np.ndarray:
        """Rows of global batch `step` (counted from 0, through all epochs), int64."""
        return self.batches(step, 1)

    def batches(self, step: int, count: int) -> np.ndarray:
        """Rows of up to `count` global batches from `step` to the epoch's end, concatenated."""
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.batch_size
        index = np.arange(start, min(start + count * self.batch_size, self.rows))
        key = mix(word(self.seed) ^ mix(word(epoch + 1)))
        return permute(index, self.rows, int(key[0]))
