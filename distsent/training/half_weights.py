"""A 16-bit copy of the trained weights, for linear layers under autocast, and their gradients.

The copy is made anew at the beginning of each step, in one pass, and nobody reads it outside of a
step: so it holds the weights whoever changed them, the optimizer, a checkpoint or another worker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn

from distsent.operators.half_linear import HalfParameter, use_copies

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# Numbers that stay in the cache between two operations: a million bytes in 16 bits.
CHUNK = 1 << 19


class HalfWeights:
    """Of `parameters`, which lie end to end in `values`, and their gradients in `grads`.

    `half_grads`: zeros, of the type of the copy.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Sequence[nn.Parameter],
        values: Tensor,
        grads: Tensor,
        half_grads: Tensor,
    ) -> None:
        self._values, self._grads, self._half_grads = values, grads, half_grads
        self._half = torch.zeros_like(half_grads)
        sizes = [p.numel() for p in parameters]
        of = {
            p: HalfParameter(half.view(p.shape), grad.view(p.shape))
            for p, half, grad in zip(
                parameters, self._half.split(sizes), self._half_grads.split(sizes), strict=True
            )
        }
        self._copies = use_copies(model, of)
        stops = list(accumulate(sizes))
        self._spans = dict(zip(parameters, zip([0, *stops], stops, strict=False), strict=True))
        self._old: set[nn.Parameter] = set()  # with a gradient of an earlier pass in the buffer

    @contextmanager
    def fresh(self) -> Iterator[None]:
        """In here, layers read the copy, and no weight may change."""
        self._half.copy_(self._values)
        self.end_pass()  # of a step that failed
        self._copies.fresh = True
        try:
            yield
        finally:
            self._copies.fresh = False
            self._copies.forget()

    def drop_old(self, part: slice) -> None:
        """Zero the 16-bit gradients of a part that this pass did not write, but an earlier one."""
        for p in self._old - self._copies.written:
            start, stop = self._spans[p]
            if start < part.stop and part.start < stop:
                self._copies.of[p].grad.zero_()
                self._old.remove(p)

    def add_grads(self, part: slice) -> None:
        """Add the 16-bit gradients of this backward pass to a part of the float32 ones."""
        self.drop_old(part)
        grads, half = self._grads[part], self._half_grads[part]
        if half.is_cuda:
            grads.add_(half)
            return
        # torch's addition of both types takes seven times as long as a conversion before it.
        for to, added in zip(grads.split(CHUNK), half.split(CHUNK), strict=True):
            to.add_(added.float())

    @property
    def written(self) -> frozenset[nn.Parameter]:
        """Parameters whose gradient of this backward pass is in the buffer."""
        return frozenset(self._copies.written)

    @written.setter
    def written(self, parameters: frozenset[nn.Parameter]) -> None:
        self._copies.written = set(parameters)

    def gradients_16(self) -> Tensor:
        """A copy of the buffer of 16-bit gradients, as integers, on the CPU."""
        return self._half_grads.to("cpu", copy=True).view(torch.int16)

    def end_pass(self) -> None:
        """All gradients of this backward pass have been added."""
        self._old |= self._copies.written
        self._copies.written = set()
