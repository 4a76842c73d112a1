"""Who computes what at step k: the global batch of the order, dealt to the workers, cut into micro-batches.

A pure function of (seed, step, lengths) and the number of workers: every worker computes it alone and all agree. Batches are dealt
by the block: numpy takes as long for one small batch as for twenty.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from distsent.batching.balance import assign_to_ranks, cost, micro_batches
from distsent.batching.dropout_keys import dropout_keys
from distsent.batching.flops import FlopCounter
from distsent.batching.packing import PackedBatch, pack
from distsent.batching.sampler import BatchSampler

if TYPE_CHECKING:
    from distsent.data.token_store import Tokens

BLOCK = 64  # batches dealt at once


@dataclass(frozen=True)
class Batch:
    """One worker's part of one global batch."""

    step: int
    rows: np.ndarray  # the global batch, the same on every worker
    lengths: np.ndarray  # of `rows`
    touched: torch.Tensor  # token ids of the global batch, sorted, each once
    micro: tuple[np.ndarray, ...]  # this worker's rows, cut to the token budget

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class BatchPlan:
    """The training of a corpus, step by step, as seen by worker `rank` of `size`."""

    tokens: Tokens
    order: BatchSampler
    work: FlopCounter
    rank: int
    size: int
    token_budget: int
    device: torch.device
    pads: tuple[int, ...] = ()  # token ids that a forward pass puts beside the batch's own
    _dealt: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(
        default_factory=dict, compare=False
    )

    def batch(self, step: int) -> Batch:
        if step not in self._dealt:
            self._deal(step)
        rows, lengths, owner = self._dealt[step]
        mine = np.flatnonzero(owner == self.rank)
        micro = tuple(rows[mine][part] for part in micro_batches(lengths[mine], self.token_budget))
        return Batch(
            step, rows, lengths, torch.from_numpy(self._touched(rows)).to(self.device), micro
        )

    def _deal(self, step: int) -> None:
        """The batches from `step` on, as far as the block and the epoch go."""
        self._dealt.clear()
        rows, n = self.order.batches(step, BLOCK), self.order.batch_size
        whole = len(rows) // n * n
        for part in (
            rows[:whole].reshape(-1, n),
            rows[None, whole:],
        ):  # the last batch of an epoch may be a shorter one
            lengths = self.tokens.lengths(part)
            owners = assign_to_ranks(
                cost(lengths, self.work.per_token, self.work.per_pair), self.size
            )
            for hand in zip(part, lengths, owners, strict=True):
                if len(hand[0]):
                    self._dealt[step + len(self._dealt)] = hand

    def _touched(self, rows: np.ndarray) -> np.ndarray:
        """Token ids of the global batch, sorted, each once. By marks: sorting half a million tokens would take 40 ms."""
        ids = np.concatenate([self.pads, *(self.tokens[row] for row in rows)]).astype(np.int64)
        marks = np.zeros(ids.max() + 1, dtype=bool)
        marks[ids] = True
        return np.flatnonzero(marks)

    def pack(self, rows: np.ndarray, seed: int, step: int, drops: bool) -> PackedBatch:
        """A micro-batch ready for the model; `drops`: whether dropout will ask for keys."""
        return collate(
            self.tokens,
            rows,
            dropout_keys(seed, step, rows, self.tokens.lengths(rows)) if drops else None,
            self.device,
        )


def collate(
    tokens: Tokens, rows: np.ndarray, keys_T: torch.Tensor | None, device: torch.device
) -> PackedBatch:
    """Rows of a token store as one stream."""
    types = None if tokens.types is None else [tokens.types[tokens.span(row)] for row in rows]
    return pack([tokens[row] for row in rows], tokens.labels[rows], types, keys_T, device)
