"""What a training step asks of the exchange between workers, and which part each one updates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from distsent.distributed.world import World
from distsent.training.flat_parameters import FlatParameters

SQUARE = 2  # index of a control slot: the squared norms of the workers' own gradients
# Numbers of a chunk (0.5 MB), which stays in the cache while several operations read it. Parts
# consist of whole chunks: so a norm has the same bits however many parts there are.
CHUNK = 1 << 17


@dataclass(frozen=True)
class Part:
    """Rows of the token embedding's gradient, and a range of all other gradients.

    `dense`: indices into `FlatParameters.dense`, without the control slots.
    """

    rows: slice
    dense: slice
    is_whole: bool = False

    @classmethod
    def of(cls, flat: FlatParameters, index: int = 0, count: int = 1) -> Part:
        """The part number `index` of `count` ones, equal but for a row and a chunk."""
        rows = 0 if flat.embedding_grad is None else len(flat.embedding_grad)
        dense = flat.size - flat.embedding_size
        stops = [dense * i // count // CHUNK * CHUNK for i in range(count)] + [dense]
        return cls(
            slice(rows * index // count, rows * (index + 1) // count),
            slice(stops[index], stops[index + 1]),
            count == 1,
        )

    def spans(self, flat: FlatParameters) -> list[slice]:
        """Where it lies in `FlatParameters.values`, in order, without gaps inside a span."""
        width = 0 if flat.embedding_grad is None else flat.embedding_grad.shape[1]
        first = slice(self.rows.start * width, self.rows.stop * width)
        second = self.dense_span(flat)
        if first.stop == second.start:
            return [slice(first.start, second.stop)]
        return [span for span in (first, second) if span.start < span.stop]

    def dense_span(self, flat: FlatParameters) -> slice:
        """`dense` in `FlatParameters.values`."""
        return slice(flat.embedding_size + self.dense.start, flat.embedding_size + self.dense.stop)

    def chunks(self) -> dict[int, slice]:
        """Its chunks of `dense`, by their numbers among all chunks."""
        starts = range(self.dense.start, self.dense.stop, CHUNK)
        return {
            start // CHUNK: slice(start, min(start + CHUNK, self.dense.stop)) for start in starts
        }

    def own_rows(self, token_ids: Tensor) -> Tensor:
        """Those of `token_ids` that belong to it. Of a whole all: a mask makes a GPU wait."""
        if self.is_whole:
            return token_ids
        return token_ids[(token_ids >= self.rows.start) & (token_ids < self.rows.stop)]


class Exchange(Protocol):
    """Sums gradients and control slots over all workers."""

    world: World
    part: Part  # which this worker updates
    sent: int  # bytes that one worker sent in the last `reduce`, or read of others
    transport: str  # its name in checkpoints
    workers: int

    def arm(self) -> None:
        """The next backward pass is this worker's last one of the step."""

    def end_pass(self, last: bool) -> None:
        """A backward pass is complete: its 16-bit gradients count, too.

        `last`: it was this worker's last one of the step.
        """

    def reduce(self, token_ids: Tensor) -> None:
        """Sum all control slots, and the gradients of `part`.

        `token_ids`: of the global batch, the same on every worker.
        """

    def norms(self, token_ids: Tensor) -> tuple[float, float]:
        """The norm of the complete sum, and the squared norms of the workers' own gradients, added.

        Called once after `reduce`. The same on every worker.
        """

    def finish(self) -> None:
        """This worker has updated its part."""


def count_chunks(flat: FlatParameters) -> int:
    return -(-(flat.size - flat.embedding_size) // CHUNK)


def whole_norm(norms: Tensor) -> float:
    """The norm of a gradient, from those of its chunks and touched rows in their order."""
    return math.sqrt(float(norms.double().square().sum()))
