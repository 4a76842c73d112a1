"""Dropout without a generator: a hash of (seed, step, example, token, site, column) keeps or drops.

The mask does not depend on the worker that holds an example, on the other examples, or on the
micro-batches, and there is no generator state to save. It is also cheaper than random numbers: a
few integer operations give four elements at once.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import nn

from distsent.batching.hashing import mix, word

_M1, _M2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64's multipliers as signed words
# Seeds of the axes of a padded tensor, and of attention heads. Those of sites are small numbers: an
# index hashed with a site's seed would repeat along that site's columns.
AXES = 1 << 32
HEADS = AXES - 1
LANES = 4  # 16-bit lanes in a 64-bit word: the rate is exact to 1 / 65536


@lru_cache(maxsize=4096)
def _hash_range(seed: int, count: int, device: torch.device) -> torch.Tensor:
    keys = mix(np.arange(count, dtype=np.uint64) + mix(word(seed)))
    return torch.from_numpy(keys.view(np.int64)).to(device)


def keys_per_index(keys: torch.Tensor, size: int, axis: int) -> torch.Tensor:
    """One key per given key and index along a further axis: int64 [*keys.shape, size]."""
    return keys.unsqueeze(-1) ^ _hash_range(AXES + axis, -(-size // 64) * 64, keys.device)[:size]


def keys_per_head(keys_T: torch.Tensor, H: int) -> torch.Tensor:
    """One key per token and attention head, int64 [T * H]."""
    return (keys_T[:, None] ^ _hash_range(HEADS, H, keys_T.device)).view(-1)


def keep_mask(keys: torch.Tensor, site: int, width: int, rate: float) -> torch.Tensor:
    """1 for kept elements, else 0: int16 [*keys.shape, width]. `site` numbers a model's dropouts.

    All steps are 16 bits wide: on CPUs, torch's comparisons into bool, and all operations that
    read a bool, cost ten times as much.
    """
    word = keys.unsqueeze(-1) ^ _hash_range(site + 1, -(-width // LANES), keys.device)
    word.mul_(_M1)
    # torch shifts the sign in. That changes a top bit, which the next product hides.
    word ^= word >> 32
    word.mul_(_M2)
    return word.view(torch.int16).ge_(round(rate * 65536) - 32768)[..., :width]


def to_multiplier(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A `keep_mask` in the form that `apply_mask` needs: all bits set, or 1 of the wider type."""
    return mask.neg() if dtype.itemsize == 2 else mask.to(dtype)


def apply_mask(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x where it is kept, else zero. Has no gradient: for functions with their own backward."""
    return (x.view(torch.int16) & mask).view(x.dtype) if x.element_size() == 2 else x * mask


def inverse_keep_prob(rate: float) -> float:
    """The factor for kept elements that preserves the expectation."""
    return 65536 / (65536 - round(rate * 65536))


class DropoutContext:
    """State of one forward pass: the keys of its tokens, and the number of dropouts so far."""

    def start_pass(self, keys_T: torch.Tensor | None, cls_index_n: torch.Tensor) -> None:
        self.keys_T: Any = keys_T
        self._keys_n: Any = None if keys_T is None else keys_T[cls_index_n]
        self._site = 0

    def next_site(self) -> int:
        assert self.keys_T is not None, "a packed batch for training has dropout keys"
        self._site += 1
        return self._site

    def again(self) -> AbstractContextManager[None]:
        """Within it, the pass goes on from here once more: the same keys, the same sites."""
        return self._at(self.keys_T, self._keys_n, self._site)

    @contextmanager
    def _at(self, *state: Any) -> Iterator[None]:
        now = self.keys_T, self._keys_n, self._site
        self.keys_T, self._keys_n, self._site = state
        try:
            yield
        finally:
            self.keys_T, self._keys_n, self._site = now

    def keys_for(self, x: torch.Tensor) -> torch.Tensor:
        """Keys for the rows of x: T tokens inside the encoder, n first tokens after it."""
        rows = x.numel() // x.shape[-1]
        return self._keys_n if rows == len(self._keys_n) else self.keys_T


class TokenDropout(nn.Module):
    """Replaces an encoder's `nn.Dropout` for packed batches: [..., T or n, width]."""

    def __init__(self, rate: float, context: DropoutContext) -> None:
        super().__init__()
        self.p = rate  # encoders read the rate of their attention under this name
        self._context = context

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        site = self._context.next_site()
        mask = keep_mask(self._context.keys_for(x), site, x.shape[-1], self.p)
        return x * mask.reshape(x.shape).to(x.dtype).mul_(inverse_keep_prob(self.p))
