"""Adding up gradients over workers: in flat buckets, in one fixed order, and of the word table only the rows that changed.

Which rows changed needs no talk: the global batch is known to every worker, and so are its tokens. The other rows are
zero everywhere, so the result is the dense exchange's to the last bit.
"""

from __future__ import annotations

import torch

from distsent.comm import World
from distsent.training.flat import Flat

BUCKET = 4_000_000  # elements (16 MB): one message keeps the link busy while the next is being made ready


class Exchange:
    """Sums `flat`'s gradient and riders over all workers, in place. `sent`: bytes a worker has handed over so far."""

    def __init__(self, world: World, flat: Flat) -> None:
        self._world, self._flat = world, flat
        self._buckets = flat.dense.split(BUCKET)
        self.sent = 0

    def sum(self, rows: torch.Tensor) -> None:
        """`rows`: the word table's rows that the global batch touches, the same on every worker."""
        if self._world.size == 1:
            return
        begun = [self._world.begin_sum(bucket, f"gradient.{i}") for i, bucket in enumerate(self._buckets)]
        self.sent += 4 * self._flat.dense.numel()
        if self._flat.table is not None:
            touched = self._flat.table.index_select(0, rows)
            self._world.sum(touched, "gradient.rows")
            self._flat.table.index_copy_(0, rows, touched)
            self.sent += 4 * touched.numel()
        for handle in begun:
            self._world.finish(handle)
