"""Which tokens of its example a token attends to: all, those before it, those near it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from distsent.operators.masks import LANES
from distsent.operators.softmax_dropout import UNLIMITED

BLOCK = 128  # queries that share a range of keys
PROBES = 64  # tokens at which a mask function is compared with a window


@dataclass(frozen=True)
class Window:
    """How many tokens before and after itself a token attends to."""

    before: int = UNLIMITED
    after: int = UNLIMITED

    def blocks(self, L: int) -> tuple[Block, ...]:
        """Queries and the keys that they need, in examples of at most L tokens."""
        return _blocks(min(self.before, L), min(self.after, L), L)


ALL_TOKENS = Window()


@dataclass(frozen=True)
class Block:
    """Some queries of an example and all keys that they attend to."""

    queries: slice
    keys: slice
    cut: bool  # whether a query among them does not attend to a key among them


@lru_cache(maxsize=32)
def _blocks(before: int, after: int, L: int) -> tuple[Block, ...]:
    return tuple(_each_block(before, after, L))


def _each_block(before: int, after: int, L: int) -> Iterator[Block]:
    size = L if before >= L - 1 and after >= L - 1 else BLOCK
    for start in range(0, L, size):
        stop = min(start + size, L)
        # Dropout masks are computed in words of several columns.
        first, last = max(0, start - before) // LANES * LANES, min(L, stop + after)
        cut = first < stop - 1 - before or start + after < last - 1
        yield Block(slice(start, stop), slice(first, last), cut)


class MaskFunction:
    """What transformers says of attention: a function of the indices of a query and a key.

    Models pass it on to their attention in place of the mask that they would compute from it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._windows: dict[int, Window] = {}

    def window(self, L: int) -> Window:
        """The window in examples of at most L tokens. Raises ValueError if it is not a window."""
        if L not in self._windows:
            self._windows[L] = self._find_window(L)
        return self._windows[L]

    @property
    def causal(self) -> bool:
        return not self._sees(torch.tensor([[0]]), torch.tensor([[1]])).item()

    def _sees(self, q: Tensor, k: Tensor) -> Tensor:
        zero = torch.tensor(0)
        return torch.as_tensor(self._function(zero, zero, q, k)).expand(
            torch.broadcast_shapes(q.shape, k.shape)
        )

    def _find_window(self, L: int) -> Window:
        q, k = torch.linspace(0, L - 1, min(L, PROBES)).long()[:, None], torch.arange(L)
        sees = self._sees(q, k)
        window = Window(int(sees[-1].sum()) - 1, int(sees[0].sum()) - 1)
        if not torch.equal(sees, (k >= q - window.before) & (k <= q + window.after)):
            raise ValueError("packed attention is to all tokens of an example, or to a window")
        limits = (UNLIMITED if n == L - 1 else n for n in (window.before, window.after))
        return Window(*limits)
