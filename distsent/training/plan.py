"""Who computes what at step k: the global batch of the order, dealt to the workers, cut into micro-batches.

A pure function of (seed, step, lengths) and the number of workers: every worker computes it alone and all agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from distsent.corpus.deal import cost, deal, micro_batches
from distsent.corpus.order import Order
from distsent.model import dropout
from distsent.model.stream import Stream, stream
from distsent.model.work import Work

if TYPE_CHECKING:
    from distsent.corpus.store import Tokens


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
class Plan:
    """The training of a corpus, step by step, as seen by worker `rank` of `size`."""

    tokens: Tokens
    order: Order
    work: Work
    rank: int
    size: int
    token_budget: int
    device: torch.device

    def batch(self, step: int) -> Batch:
        rows = self.order.batch(step)
        lengths = self.tokens.lengths(rows)
        owner = deal(cost(lengths, self.work.per_token, self.work.per_pair)[None], self.size)[0]
        mine = np.flatnonzero(owner == self.rank)
        micro = tuple(rows[mine][part] for part in micro_batches(lengths[mine], self.token_budget))
        touched = np.unique(np.concatenate([self.tokens[row] for row in rows])).astype(np.int64)
        return Batch(step, rows, lengths, torch.from_numpy(touched).to(self.device), micro)

    def stream(self, rows: np.ndarray, seed: int, step: int, drops: bool) -> Stream:
        """A micro-batch ready for the model; `drops`: whether dropout will ask for keys."""
        return lay(self.tokens, rows, dropout.keys(seed, step, rows, self.tokens.lengths(rows)) if drops else None, self.device)


def lay(tokens: Tokens, rows: np.ndarray, keys_T: torch.Tensor | None, device: torch.device) -> Stream:
    """Rows of a token store as one stream."""
    types = None if tokens.types is None else [tokens.types[tokens.span(row)] for row in rows]
    return stream([tokens[row] for row in rows], tokens.labels[rows], types, keys_T, device)
