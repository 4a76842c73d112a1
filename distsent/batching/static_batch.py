"""A packed batch in memory that stays: a recorded pass reads each batch at the same addresses.

Batches of one shape share it. A batch has at most as many tokens and examples as its shape; those
left over belong to no example, and `factor_n` is 0 for them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distsent.batching.block_tables import BlockTables
from distsent.batching.packing import PackedBatch, filler_tokens, round_rows

ALIGNED = 256  # bytes: kernels are compiled for addresses like those of torch's allocations
SHORTEST = 64  # tokens for which the longest example of a shape has room


@dataclass(frozen=True)
class Shape:
    """What a recorded pass is recorded for."""

    tokens: int
    examples: int
    longest: int
    labels: tuple[int, ...]  # of an example
    types: bool

    @classmethod
    def of(cls, batch: PackedBatch) -> Shape:
        """Rounded up, so that a run has few of them. There are always more tokens than examples."""
        examples = round_rows(batch.sequences)
        tokens = max(len(batch.ids_T), examples + 1)
        longest = max(SHORTEST, 1 << (max(batch.lengths) - 1).bit_length())
        labels = tuple(batch.labels_n.shape[1:])
        types = batch.types_T is not None
        return cls(tokens + filler_tokens(tokens), examples, longest, labels, types)


class StaticBatch:
    """Memory on `device` for batches of one shape.

    `factor_n`: float32 [n], by which the loss of each example counts.
    """

    def __init__(self, shape: Shape, like: PackedBatch, device: torch.device) -> None:
        self.tables = BlockTables(shape.tokens, shape.examples, shape.longest, device)
        self._shape, places, size = shape, {}, 0
        for name, (count, values) in self._parts(like, np.zeros(like.sequences)).items():
            width = int(np.prod((count, *values.shape[1:]))) * values.itemsize
            places[name] = slice(size, size + width), values.dtype, (count, *values.shape[1:])
            size += -(-width // ALIGNED) * ALIGNED
        self._places = places
        self._memory = torch.zeros(size, dtype=torch.uint8, device=device)
        of = {name: self._view(self._memory, name) for name in places}
        self.factor_n = of.pop("factor_n")
        self._tensors: dict[str, Any] = of

    def fill(self, batch: PackedBatch, factor: float) -> PackedBatch:
        """`batch`, which is on the CPU, in this memory. `factor`: of the loss of each example."""
        host = torch.empty(len(self._memory), dtype=torch.uint8, pin_memory=self._memory.is_cuda)
        factors = np.full(batch.sequences, factor)
        for name, (_, values) in self._parts(batch, factors).items():
            view = self._view(host, name)
            view[: len(values)] = torch.from_numpy(values)
            # Filler tokens are like the first token, which has a gradient anyway.
            view[len(values) :] = view[0] if name.endswith("_T") else 0
        self._memory.copy_(host, non_blocking=True)
        left = self._shape.examples - batch.sequences
        lengths = (*batch.lengths, *(0,) * left)
        self.tables.set(lengths)
        # A new object: what layers share of an earlier batch must not be found again.
        return replace(
            batch, **self._tensors, lengths=lengths, tables=self.tables, _layouts={}, memo={}
        )

    def _view(self, memory: Tensor, name: str) -> Tensor:
        place, dtype, shape = self._places[name]
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        return memory[place].view(kind).view(shape)

    def _parts(self, batch: PackedBatch, factors: np.ndarray) -> dict[str, tuple[int, np.ndarray]]:
        """By name: the room for rows, and the rows of `batch`."""
        T, n = self._shape.tokens, self._shape.examples
        parts = {
            "ids_T": (T, batch.ids_T), "positions_T": (T, batch.positions_T),
            "types_T": (T, batch.types_T), "keys_T": (T, batch.keys_T),
            "cls_index_n": (n, batch.cls_index_n), "labels_n": (n, batch.labels_n),
            "step_key": (1, batch.step_key),
        }  # fmt: skip
        arrays = {k: (count, x.numpy()) for k, (count, x) in parts.items() if x is not None}
        return {**arrays, "factor_n": (n, factors.astype(np.float32))}
