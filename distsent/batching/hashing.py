"""Integer hashes: the source of all randomness in training, without generator state."""

import numpy as np

# The multipliers of splitmix64 (Steele et al., 2014).
M1, M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def mix(x: np.ndarray) -> np.ndarray:
    """Hash each uint64 (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * M1
    x = (x ^ (x >> np.uint64(27))) * M2
    return x ^ (x >> np.uint64(31))


def word(number: int) -> np.ndarray:
    """An integer as one 64-bit word, uint64 [1]."""
    return np.array([number % 2**64], dtype=np.uint64)
