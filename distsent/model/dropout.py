"""Hashed dropout (operators/masks.py) in an encoder that runs packed batches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from distsent.operators.dropout import Dropped, dropout


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

    def of(self, x: torch.Tensor) -> Dropped | None:
        """What is dropped of x by this call, or None."""
        if not self.training or self.p == 0:
            return None
        site = self._context.next_site()
        return Dropped(self._context.keys_for(x), site, self.p)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        dropped = self.of(x)
        return x if dropped is None else dropout(x, dropped)
