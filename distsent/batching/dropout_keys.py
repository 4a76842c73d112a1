"""One key a token for dropout: a hash of seed, step, example and position."""

from __future__ import annotations

import numpy as np
import torch

from distsent.batching.hashing import mix, word


def dropout_keys(seed: int, step: int, rows: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """One int64 key a token [T], for examples `rows` of `lengths` tokens laid end to end."""
    step_key = mix(mix(word(seed)) ^ word(step + 1))
    row_keys = mix(step_key ^ mix(rows.astype(np.uint64) + np.uint64(1)))
    starts = np.cumsum(lengths) - lengths
    places = np.arange(int(lengths.sum()), dtype=np.uint64) - np.repeat(starts, lengths).astype(
        np.uint64
    )
    return torch.from_numpy(mix(np.repeat(row_keys, lengths) ^ mix(places)).view(np.int64))
