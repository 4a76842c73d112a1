"""Dropout keys: per token, a hash of seed, step, example and position; and one per step."""

import numpy as np
import torch

from distsent.batching.hashing import M2, mix, word


def dropout_keys(seed: int, step: int, rows: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """int64 [T] keys for the concatenated tokens of dataset rows `rows` with these lengths."""
    row_keys = mix(_step_key(seed, step) ^ mix(rows.astype(np.uint64) + np.uint64(1)))
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths).astype(np.uint64)
    positions = np.arange(int(lengths.sum()), dtype=np.uint64) - starts
    return torch.from_numpy(mix(np.repeat(row_keys, lengths) ^ mix(positions)).view(np.int64))


def step_key(seed: int, step: int) -> torch.Tensor:
    """int64 [1]: the key of dropout on what all examples share, such as position embeddings."""
    return torch.from_numpy(_step_key(seed, step).view(np.int64))


def _step_key(seed: int, step: int) -> np.ndarray:
    # `mix` keeps 0. Without M2, seed 0 would hash step and row alike: row 3 of step 5 would get the
    # mask of row 5 of step 3.
    return mix(mix(word(seed) ^ M2) ^ word(step + 1))
