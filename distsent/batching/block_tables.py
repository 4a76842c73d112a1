"""The tables from which attention's kernels learn which blocks of which example they compute.

A table is int32 [blocks, 4]: an example's first token, its tokens, its first query, and the block's
first query or key in it.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

SMALLEST = 16  # queries or keys of a block
TABLES = 8  # that kernels may ask for: three kernels, all queries or those of first tokens


def block_table(
    lengths: tuple[int, ...], size: int, first_only: bool, cls_only: bool
) -> np.ndarray:
    """A row per block of `size` tokens; `first_only`: one block per example.

    Long examples come first: a GPU finishes the short ones while the last of the long ones run.
    """
    L = np.array(lengths)
    start, order = np.cumsum(L) - L, np.argsort(-L, kind="stable")
    firsts = [np.arange(0, min(L[i], 1 if first_only else L[i]), size) for i in order]
    example = order.repeat([len(each) for each in firsts])
    row = example if cls_only else start[example]
    table = np.stack([start[example], L[example], row, np.concatenate(firsts)], axis=1)
    return table.astype(np.int32)


@lru_cache(maxsize=32)
def blocks(
    lengths: tuple[int, ...], size: int, first_only: bool, cls_only: bool, device: torch.device
) -> Tensor:
    """A batch's table. All layers share one."""
    return torch.from_numpy(block_table(lengths, size, first_only, cls_only)).to(device)


class BlockTables:
    """Tables that stay where they are when a batch of other lengths comes.

    For batches of at most `tokens` tokens, `examples` examples, and `longest` tokens in one of
    them. A table has as many rows as any of these needs; those left over have no tokens.
    """

    def __init__(self, tokens: int, examples: int, longest: int, device: torch.device) -> None:
        self.longest, self._tokens, self._examples = longest, tokens, examples
        rows = tokens // SMALLEST + examples
        self._memory = torch.zeros((TABLES, rows, 4), dtype=torch.int32, device=device)
        self._lengths: tuple[int, ...] = ()
        self._kinds: list[tuple[int, bool, bool]] = []

    def set(self, lengths: tuple[int, ...]) -> None:
        """The batch that comes next."""
        self._lengths = lengths
        if self._kinds:
            host = torch.empty(
                (len(self._kinds), *self._memory.shape[1:]),
                dtype=torch.int32,
                pin_memory=self._memory.is_cuda,
            )
            for each, kind in zip(host.numpy(), self._kinds, strict=True):
                table = block_table(lengths, *kind)
                each[: len(table)], each[len(table) :] = table, 0
            self._memory[: len(host)].copy_(host, non_blocking=True)

    def table(self, size: int, first_only: bool, cls_only: bool) -> Tensor:
        kind = size, first_only, cls_only
        if kind not in self._kinds:
            self._kinds.append(kind)
            self.set(self._lengths)
        rows = self._examples + (0 if first_only else self._tokens // size)
        return self._memory[self._kinds.index(kind), :rows]
