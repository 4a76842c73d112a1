"""One dropout key per token: a hash of seed, step, example and position."""

import numpy as np
import torch

from distsent.batching.hashing import mix, word


def dropout_keys(seed: int, step: int, rows: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """int64 [T] keys for the concatenated tokens of dataset rows `rows` with these lengths."""
    step_key = mix(mix(word(seed)) ^ word(step + 1))
    row_keys = mix(step_key ^ mix(rows.astype(np.uint64) + np.uint64(1)))
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths).astype(np.uint64)
    positions = np.arange(int(lengths.sum()), dtype=np.uint64) - starts
    return torch.from_numpy(mix(np.repeat(row_keys, lengths) ^ mix(positions)).view(np.int64))
