"""Adding up gradients over workers: in flat buckets, in one fixed order, and of the word table only the rows that changed.

Which rows changed needs no talk: the global batch is known to every worker, and so are its tokens. The other rows are
zero everywhere, so the result is the dense exchange's to the last bit.

Where a link is slower than memory, or GPUs compute, a bucket leaves as soon as its last gradient is there, while backward goes on
with the layers below. Within one machine's memory the cores that move the bytes are those that compute, and nothing is gained:
`python -m benchmarks exchange`, where Horovod's own wrapped optimizer stands beside it.
"""

from __future__ import annotations

import math
import weakref
from functools import partial
from typing import Any

import torch

from distsent.distributed.world import World
from distsent.training.flat_parameters import FlatParameters

BUCKET = 4_000_000  # elements (16 MB): one message keeps the link busy while the next is being made ready
NEVER = math.inf  # a bucket that misses so many gradients waits for `sum`


def early(world: World, flat: FlatParameters) -> bool:
    """Whether buckets leave during backward. Not in an elastic world, whose sums are done when they have begun."""
    return not world.elastic and (
        world.size > world.local_size or (world.size > 1 and flat.values.is_cuda)
    )


def arrived(exchange: weakref.ref[GradientReducer], places: range, _: torch.Tensor) -> None:
    """A hook of a parameter. It holds nobody: a list of seeds trains many models in one process."""
    if (living := exchange()) is not None:
        living.arrived(places)


class GradientReducer:
    """Sums `flat`'s gradient and control_slots over all workers, in place. `sent`: bytes that a worker handed over for the last sum."""

    def __init__(self, world: World, flat: FlatParameters) -> None:
        self._world, self._flat = world, flat
        self._buckets = flat.dense.split(BUCKET)
        self._begun: dict[int, Any] = {}  # bucket: handle of its sum
        self._parameters = [0.0] * len(
            self._buckets
        )  # how many have their gradient in a bucket, or a part of it
        self._missing = [NEVER] * len(self._buckets)  # gradients that a bucket still waits for
        self.sent = 0
        if early(world, flat):
            self._watch()

    def _watch(self) -> None:
        start = -self._flat.table_size
        for _, p in self._flat.named:
            stop = start + p.numel()
            if start >= 0:
                places = range(start // BUCKET, (stop - 1) // BUCKET + 1)
                p.register_post_accumulate_grad_hook(partial(arrived, weakref.ref(self), places))
                for i in places:
                    self._parameters[i] += 1
            start = stop
        for i in range(
            start // BUCKET, len(self._buckets)
        ):  # the control_slots', which are known last, lie in one bucket or two
            self._parameters[i] = NEVER

    def arrived(self, places: range) -> None:
        """A gradient that lies in the buckets `places` is there."""
        for i in places:
            self._missing[i] -= 1
            if self._missing[i] == 0:
                self._begin(i)

    def _begin(self, i: int) -> None:
        self._begun[i] = self._world.allreduce_async(self._buckets[i], f"gradient.{i}")

    def expect(self) -> None:
        """The backward pass that comes is this worker's last one before `sum`: what it fills may leave."""
        self._missing = [count or NEVER for count in self._parameters]

    def sum(self, rows: torch.Tensor) -> None:
        """`rows`: the word table's rows that the global batch touches, the same on every worker."""
        if self._world.size == 1:
            return
        for i in range(len(self._buckets)):
            if i not in self._begun:
                self._begin(i)
        self.sent = 4 * self._flat.dense.numel()
        if self._flat.table is not None:
            touched = self._flat.table.index_select(0, rows)
            self._world.allreduce(touched, "gradient.rows")
            self._flat.table.index_copy_(0, rows, touched)
            self.sent += 4 * touched.numel()
        for handle in self._begun.values():
            self._world.wait(handle)
        self._begun, self._missing = {}, [NEVER] * len(self._buckets)
