"""Dropout without a generator: a hash of (seed, step, example, token, site, column) keeps or drops.

The mask does not depend on the worker that holds an example, on the other examples, or on the
micro-batches, and there is no generator state to save. It is also cheaper than random numbers: a
few integer operations give four elements at once.
"""

from functools import lru_cache

import numpy as np
import torch

from distsent.batching.hashing import mix, word

_M1, _M2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64's multipliers as signed words
# Seeds of the axes of a padded tensor, and of attention heads. Those of sites are small numbers: an
# index hashed with a site's seed would repeat along that site's columns.
AXES = 1 << 32
HEADS = AXES - 1
LANES = 4  # 16-bit lanes in a 64-bit word: the rate is exact to 1 / 65536


@lru_cache(maxsize=4096)
def hash_range(seed: int, count: int, device: torch.device) -> torch.Tensor:
    keys = mix(np.arange(count, dtype=np.uint64) + mix(word(seed)))
    return torch.from_numpy(keys.view(np.int64)).to(device)


def keys_per_index(keys: torch.Tensor, size: int, axis: int) -> torch.Tensor:
    """One key per given key and index along a further axis: int64 [*keys.shape, size]."""
    return keys.unsqueeze(-1) ^ hash_range(AXES + axis, -(-size // 64) * 64, keys.device)[:size]


def keys_per_head(keys_T: torch.Tensor, H: int) -> torch.Tensor:
    """One key per token and attention head, int64 [T * H]."""
    return (keys_T[:, None] ^ hash_range(HEADS, H, keys_T.device)).view(-1)


def keep_mask(keys: torch.Tensor, site: int, width: int, rate: float) -> torch.Tensor:
    """1 for kept elements, else 0: int16 [*keys.shape, width]. `site` numbers a model's dropouts.

    All steps are 16 bits wide: on CPUs, torch's comparisons into bool, and all operations that
    read a bool, cost ten times as much.
    """
    word = keys.unsqueeze(-1) ^ hash_range(site + 1, -(-width // LANES), keys.device)
    word.mul_(_M1)
    # torch shifts the sign in. That changes a top bit, which the next product hides.
    word ^= word >> 32
    word.mul_(_M2)
    return word.view(torch.int16).ge_(threshold(rate))[..., :width]


def threshold(rate: float) -> int:
    """The least 16-bit lane that is kept."""
    return round(rate * 65536) - 32768


def to_multiplier(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A `keep_mask` in the form that `apply_mask` needs: all bits set, or 1 of the wider type."""
    return mask.neg() if dtype.itemsize == 2 else mask.to(dtype)


def apply_mask(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x where it is kept, else zero. Has no gradient: for functions with their own backward."""
    return (x.view(torch.int16) & mask).view(x.dtype) if x.element_size() == 2 else x * mask


def inverse_keep_prob(rate: float) -> float:
    """The factor for kept elements that preserves the expectation."""
    return 65536 / (65536 - round(rate * 65536))
