"""Dropout without a generator: whether an element is kept is a hash of (seed, step, example, token, site, column).

A mask thus does not depend on which worker holds the example, on its neighbours, or on how the batch was cut, and there
is no generator state to save. It also costs less than drawing: a few integer operations give four elements at once.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import nn

from distsent.batching.hashing import mix, word

_M1, _M2 = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # splitmix64's multipliers, as signed words
LANES = 4  # 16-bit lanes in a 64-bit word: the rate is exact to 1 / 65536


@lru_cache(maxsize=4096)
def _columns(site: int, words: int, device: torch.device) -> torch.Tensor:
    column = mix(np.arange(words, dtype=np.uint64) + mix(word(site + 1)))
    return torch.from_numpy(column.view(np.int64)).to(device)


def keep_mask(keys: torch.Tensor, site: int, width: int, rate: float) -> torch.Tensor:
    """1 where an element stays, else 0: int16 [*keys.shape, width]. `site` numbers the places of a network that drop.

    16 bits wide from end to end: torch's comparisons into bool, and all that reads a bool, cost ten times as much on a CPU.
    """
    word = keys.unsqueeze(-1) ^ _columns(site, -(-width // LANES), keys.device)
    word.mul_(_M1)
    word ^= (
        word >> 32
    )  # torch shifts signs in: that spoils a top bit here, which the next product hides, and none below
    word.mul_(_M2)
    return word.view(torch.int16).ge_(round(rate * 65536) - 32768)[..., :width]


def mask_of(kept: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What `keep` gave, in the form that `masked` takes for values of that type: all bits, or 0 and 1 of the type itself."""
    return kept.neg() if dtype.itemsize == 2 else kept.to(dtype)


def masked(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """x where it stays, else zero. No gradient: for functions that write out their own."""
    return (x.view(torch.int16) & mask).view(x.dtype) if x.element_size() == 2 else x * mask


@lru_cache(maxsize=64)
def of_heads(count: int, device: torch.device) -> torch.Tensor:
    """What tells the heads of one token apart, int64 [count]."""
    return torch.from_numpy(
        mix(np.arange(count, dtype=np.uint64) + mix(word(7))).view(np.int64)
    ).to(device)


def inverse_keep_prob(rate: float) -> float:
    """What kept elements are multiplied with, so that the expectation stays."""
    return 65536 / (65536 - round(rate * 65536))


class TokenDropout(nn.Module):
    """Takes the place of an encoder's `nn.Dropout` when its input is a stream: [..., T or n, width]."""

    def __init__(self, rate: float, flow: DropoutContext) -> None:
        super().__init__()
        self.p, self._flow = rate, flow  # `p`: encoders read their attention's rate under that name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        kept = keep_mask(self._flow.keys_of(x), self._flow.next_site(), x.shape[-1], self.p)
        return x * kept.reshape(x.shape).to(x.dtype).mul_(inverse_keep_prob(self.p))

    def extra_repr(self) -> str:
        return f"p={self.p}"


class DropoutContext:
    """What streams through a model right now: the keys of its tokens, and how many dropouts it has passed."""

    def __init__(self) -> None:
        self._tokens: torch.Tensor | None = None
        self._firsts: torch.Tensor | None = None
        self._site = 0

    def begin(self, keys_T: torch.Tensor | None, cls_index_n: torch.Tensor) -> None:
        self._tokens, self._site = keys_T, 0
        self._firsts = None if keys_T is None else keys_T[cls_index_n]

    def next_site(self) -> int:
        self._site += 1
        return self._site

    @property
    def tokens(self) -> torch.Tensor:
        assert self._tokens is not None, "a training stream carries keys"
        return self._tokens

    def keys_of(self, x: torch.Tensor) -> torch.Tensor:
        """Keys for the rows of x: one an example behind the encoder (n rows), one a token before (T rows)."""
        assert self._firsts is not None, "a training stream carries keys"
        rows = x.numel() // x.shape[-1]
        return self._firsts if rows == len(self._firsts) else self.tokens
