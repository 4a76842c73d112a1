"""What each worker computes in step k: the global batch, assigned to workers, in micro-batches.

A pure function of (seed, step, lengths, number of workers): each worker computes it alone, and all
agree. Steps are planned in blocks: numpy takes as long for one small batch as for twenty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from distsent.batching.balance import assign_to_ranks, cost, micro_batches
from distsent.batching.dropout_keys import dropout_keys, step_key
from distsent.batching.flops import FlopCounter
from distsent.batching.packing import PackedBatch, pack
from distsent.batching.sampler import BatchSampler

if TYPE_CHECKING:
    from distsent.data.tokens.store import Tokens

BLOCK = 64  # batches planned at once
PART = 512  # texts whose tokens are marked at once


@dataclass(frozen=True)
class Batch:
    """One global batch, and one worker's part of it."""

    step: int
    rows: np.ndarray  # of the global batch, the same on every worker
    lengths: np.ndarray  # tokens of each of `rows`, in all its windows
    window_lengths: np.ndarray  # tokens of each window, or of each of `rows`
    token_ids: torch.Tensor  # of the global batch: sorted, each once
    shares: np.ndarray  # examples of each worker
    micro_rows: tuple[np.ndarray, ...]  # this worker's rows, split by the token budget
    pack: Callable[[np.ndarray], PackedBatch]
    first: PackedBatch | None = None  # of the first micro-batch, if it was prepared

    def micro_batches(self) -> Iterator[tuple[np.ndarray, PackedBatch]]:
        """(rows, packed batch) of each micro-batch. Packed on demand: only one is in memory."""
        for i, rows in enumerate(self.micro_rows):
            yield rows, self.first if i == 0 and self.first is not None else self.pack(rows)

    def __len__(self) -> int:
        """Examples of the global batch."""
        return len(self.rows)


@dataclass(frozen=True)
class BatchPlan:
    """All batches of a run, as worker `rank` of `size` sees them."""

    tokens: Tokens
    sampler: BatchSampler
    flops: FlopCounter
    rank: int
    size: int
    token_budget: int
    device: torch.device
    added_ids: tuple[int, ...] = ()  # token ids that a forward pass adds to those of the batch
    packs_on: torch.device | None = None  # where packed batches are, if not on `device`
    _block: dict[int, tuple[np.ndarray, ...]] = field(default_factory=dict, compare=False)
    _ahead: dict[int, Batch] = field(default_factory=dict, compare=False)

    def for_worker(self, rank: int, size: int) -> BatchPlan:
        """The same batches, as worker `rank` of `size` sees them."""
        return replace(self, rank=rank, size=size, _block={}, _ahead={})

    def assigned(self, step: int) -> tuple[np.ndarray, ...]:
        """(rows, their lengths, their ranks) of global batch `step`."""
        if step not in self._block:
            self._plan_block(step)
        return self._block[step]

    def batch(self, step: int) -> Batch:
        """The batch of step `step`, counted from 0."""
        return self._ahead.pop(step, None) or self._batch(step)

    def prepare(self, step: int) -> None:
        """Plan and pack `batch(step)`, on the CPU while a GPU computes the step before."""
        self._ahead.clear()
        if self.packs_on is not None:
            batch = self._batch(step)
            first = batch.pack(batch.micro_rows[0]) if batch.micro_rows else None
            self._ahead[step] = replace(batch, first=first)

    def _batch(self, step: int) -> Batch:
        rows, lengths, owner = self.assigned(step)
        mine = np.flatnonzero(owner == self.rank)
        groups = micro_batches(lengths[mine], self.token_budget)
        micro_rows = tuple(rows[mine][group] for group in groups)
        token_ids = torch.from_numpy(self._token_ids(rows))
        if self.device.type == "cuda":
            token_ids = token_ids.pin_memory()  # so that the CPU does not wait for the copy
        token_ids = token_ids.to(self.device, non_blocking=True)
        windows = self.tokens.window_lengths(rows)
        shares = np.bincount(owner, minlength=self.size)
        own = micro_rows, lambda r: self._pack(step, r)
        return Batch(step, rows, lengths, windows, token_ids, shares, *own)

    def _plan_block(self, step: int) -> None:
        """Plan the batches from `step` to the end of the block or the epoch."""
        self._block.clear()
        rows, n = self.sampler.batches(step, BLOCK), self.sampler.batch_size
        full = len(rows) // n * n
        # The last batch of an epoch may be a shorter one.
        for part in (rows[:full].reshape(-1, n), rows[None, full:]):
            lengths = self.tokens.lengths(part)
            windows = self.tokens.window_lengths(part.ravel())
            costs = cost(windows, self.flops.per_token, self.flops.per_pair)
            owners = assign_to_ranks(self.tokens.sum_windows(costs, part), self.size)
            for planned in zip(part, lengths, owners, strict=True):
                if len(planned[0]):
                    self._block[step + len(self._block)] = planned

    def _token_ids(self, rows: np.ndarray) -> np.ndarray:
        """Token ids of `rows`, sorted, each once. Sorting half a million tokens takes 40 ms."""
        ids = np.asarray(self.tokens.ids)  # a slice of a memory map takes ten times as long
        texts = [ids[span] for span in self.tokens.window_spans(rows)]
        # By parts: numpy converts an index to int64, and new memory for all of it would be slow.
        parts = [np.concatenate(texts[i : i + PART]) for i in range(0, len(texts), PART)]
        parts.append(np.array(self.added_ids, dtype=np.int64))
        marks = np.zeros(1 + max(int(part.max(initial=0)) for part in parts), dtype=bool)
        for part in parts:
            marks[part] = True
        return np.flatnonzero(marks)

    def _pack(self, step: int, rows: np.ndarray) -> PackedBatch:
        lengths = self.tokens.lengths(rows)
        seed = self.sampler.seed
        keys_T, key = dropout_keys(seed, step, rows, lengths), step_key(seed, step)
        return collate(self.tokens, rows, keys_T, self.packs_on or self.device, key)


def collate(
    tokens: Tokens,
    rows: np.ndarray,
    keys_T: torch.Tensor | None,
    device: torch.device,
    step_key: torch.Tensor | None = None,
) -> PackedBatch:
    """Pack rows of a token store. `keys_T`, `step_key`: for dropout, None in an evaluation."""
    spans = tokens.window_spans(rows)
    types = None if tokens.types is None else [tokens.types[span] for span in spans]
    ids, counts = [tokens.ids[span] for span in spans], tokens.counts(rows)
    return pack(ids, tokens.labels[rows], types, keys_T, device, step_key, windows_n=counts)
