"""What travels between workers in a step: gradients, and the control slots of train_step.py.

Gradients are summed in flat buckets, in one fixed order; of the embedding's, only touched rows.
All workers know the global batch, so they know its token ids. The other rows of the embedding's
gradient are zero everywhere, so the result has the bits of a dense all-reduce.

Between machines, and between GPUs, if passes are not recorded, a bucket leaves as soon as its last
gradient is ready and those of the layers above have left, while backward continues with the layers
below. All workers send buckets in the same order, also one without rows in a batch: torch's
collectives match by their order alone. Within one machine that gains nothing: the cores that move
the bytes are those that compute. `python -m benchmarks exchange` compares both, and Horovod's own
wrapped optimizer.
"""

from __future__ import annotations

import math
import weakref
from functools import partial
from itertools import accumulate
from typing import Any

import torch

from distsent.distributed.world import World
from distsent.training.exchange import SQUARE, Part, whole_norm
from distsent.training.flat_parameters import CONTROL_SLOTS, FlatParameters

# Elements (16 MB): one message keeps the link busy while the next one is prepared.
BUCKET = 4_000_000
NEVER = math.inf  # missing gradients of a bucket that leaves in `reduce`, not during backward


def overlaps_backward(world: World, flat: FlatParameters) -> bool:
    """Whether buckets leave during backward. An elastic world cannot: its all-reduces block."""
    between_machines = world.size > world.local_size
    return not world.elastic and (between_machines or (world.size > 1 and flat.values.is_cuda))


def notify(reducer: weakref.ref[GradientReducer], buckets: range, *_: Any) -> None:
    """A parameter's gradient hook. Weak: with a list of seeds one process trains many models."""
    if (alive := reducer()) is not None:
        alive.on_grad_ready(buckets)


class GradientReducer:
    """Sums `flat`'s gradients and control slots over all workers, in place.

    `mixed`: whether workers compute on devices of several kinds. `overlap`: buckets may leave
    during backward.
    """

    def __init__(
        self, world: World, flat: FlatParameters, mixed: bool = False, overlap: bool = True
    ) -> None:
        self.world, self._flat, self._mixed = world, flat, mixed
        self.transport, self.workers = world.transport, world.size
        self.part = Part.of(flat)  # each worker updates all of its own weights
        self._buckets = flat.dense.split(BUCKET)
        self._gradients = flat.dense[:-CONTROL_SLOTS].split(BUCKET)  # the same, without the slots
        stops = list(accumulate(len(bucket) for bucket in self._buckets))
        self._parts = [slice(*ends) for ends in zip([0, *stops], stops, strict=False)]
        self._handles: dict[int, Any] = {}  # bucket -> handle of its all-reduce
        self._parameters = [0.0] * len(self._buckets)  # parameters with a gradient in a bucket
        self._missing = [NEVER] * len(self._buckets)  # gradients that a bucket waits for
        self._order = list(range(len(self._buckets)))  # in which buckets leave, on every worker
        self._norms: list[torch.Tensor] = []  # of buckets that left, before they were summed
        self._nodes: list[Any] = []  # autograd's, of parameters: alive as long as their hooks
        self.sent = 0  # bytes that one worker sent in the last `reduce`
        if overlap and overlaps_backward(world, flat):
            self._register_hooks()

    def _register_hooks(self) -> None:
        start = -self._flat.embedding_size
        for _, p in self._flat.named:
            stop = start + p.numel()
            if start >= 0:
                buckets = range(start // BUCKET, (stop - 1) // BUCKET + 1)
                # Not a hook of the parameter: a layer that writes 16-bit gradients gives autograd
                # none. This node runs all the same, after the parameter's last use.
                with torch.enable_grad():
                    view: Any = p.view_as(p)
                node = view.grad_fn.next_functions[0][0]
                node.register_hook(partial(notify, weakref.ref(self), buckets))
                self._nodes.append(node)
                for i in buckets:
                    self._parameters[i] += 1
            start = stop
        # The control slots, in the last one or two buckets, are known only after backward.
        for i in range(start // BUCKET, len(self._buckets)):
            self._parameters[i] = NEVER
        early = [i for i, count in enumerate(self._parameters) if 0 < count < NEVER]
        # Backward begins with the last layer.
        self._order = early[::-1] + [i for i in self._order if i not in early]

    def arm(self) -> None:
        """The next backward pass is this worker's last one of the step: full buckets may leave."""
        self._missing = [count or NEVER for count in self._parameters]

    def on_grad_ready(self, buckets: range) -> None:
        """A gradient in `buckets` is complete."""
        for i in buckets:
            self._missing[i] -= 1
        while self._missing[i := self._order[len(self._handles)]] == 0:  # NEVER for the last one
            self._flat.add_half_grads(self._parts[i])
            self._norms.append(self._norm(i))
            self._start(i)

    def end_pass(self, last: bool) -> None:
        """See `Exchange.end_pass`. Buckets that left during a last pass have its gradients."""
        whole, left = slice(0, self._flat.size), self._order[len(self._handles) :]
        self._flat.end_pass([self._parts[i] for i in left] if self._handles else [whole])

    def own_square(self, token_ids: torch.Tensor) -> torch.Tensor | float:
        """The squared norm of this worker's gradient, before `reduce` sums it; 0 for one worker."""
        if self.world.size == 1:
            return 0.0
        left = self._order[len(self._handles) :]
        norms = self._norms + [self._norm(i) for i in left if i < len(self._gradients)]
        if self._flat.embedding_grad is not None:
            rows = self._flat.embedding_grad.index_select(0, token_ids)
            norms.append(torch.linalg.vector_norm(rows))
        return torch.stack(norms).square().sum()

    def _norm(self, i: int) -> torch.Tensor:
        return torch.linalg.vector_norm(self._gradients[i])

    def _start(self, i: int) -> None:
        self._handles[i] = self.world.allreduce_async(self._buckets[i], f"gradient.{i}")

    def reduce(self, token_ids: torch.Tensor) -> None:
        """Finish the sum. `token_ids`: of the global batch, the same on every worker."""
        if self.world.size == 1:
            return
        self._flat.control_slots[SQUARE] = self.own_square(token_ids)
        for i in self._order[len(self._handles) :]:
            self._start(i)
        self.sent = 4 * self._flat.dense.numel()
        if self._flat.embedding_grad is not None:
            rows = self._flat.embedding_grad.index_select(0, token_ids)
            self.world.allreduce(rows, "gradient.embedding")
            self._flat.embedding_grad.index_copy_(0, token_ids, rows)
            self.sent += 4 * rows.numel()
        for handle in self._handles.values():
            self.world.wait(handle)
        self._handles, self._missing = {}, [NEVER] * len(self._buckets)
        self._norms = []

    def norms(self, token_ids: torch.Tensor) -> tuple[float, float]:
        """See `Exchange.norms`. Untouched embedding rows are zero."""
        own_square = float(self._flat.control_slots[SQUARE])
        return self._shared(self._sum_norm(token_ids)), own_square

    def _sum_norm(self, token_ids: torch.Tensor) -> float:
        flat, norm = self._flat, torch.linalg.vector_norm
        rows = None if flat.embedding_grad is None else flat.embedding_grad[token_ids]
        if not flat.values.is_cuda:
            norms = torch.stack([norm(flat.dense[chunk]) for chunk in self.part.chunks().values()])
            return whole_norm(norms if rows is None else torch.cat([norm(rows, dim=1), norms]))
        # A launch takes longer than a chunk.
        dense = norm(flat.dense[:-CONTROL_SLOTS])
        return float(dense if rows is None else torch.hypot(dense, norm(rows)))

    def _shared(self, value: float) -> float:
        """The main worker's value where the workers' may differ in the last bit.

        Weights that are clipped by several norms drift apart. Costs a broadcast: 1 to 2 ms.
        """
        if not self._mixed:
            return value
        place = torch.tensor([value], dtype=torch.float64, device=self._flat.values.device)
        return float(self.world.broadcast(place, "gradient.norm"))

    def finish(self) -> None:
        """Nothing: no other worker reads this one's weights."""
