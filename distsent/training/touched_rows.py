"""Adam over the rows of the token embedding that the batches so far have had.

Texts use few of a vocabulary's tokens: emotion 9,792 of BERT's 30,522, and multilingual encoders
have 250,000. The moments of all other rows are zero, and without weight decay no update changes
such a row. So it is skipped, with the same bits. A row that a batch had once moves at every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam

from distsent.job.schema import OptimSection
from distsent.training.exchange import CHUNK
from distsent.training.flat_parameters import FlatParameters

# Numbers of a row fill vectors: torch computes those left over at a tensor's end more precisely.
WIDTH = 16
# A row that is copied out, updated and copied back takes this many times as long as one in place.
COPYING = 7


def skips_rows(optim: OptimSection, flat: FlatParameters) -> bool:
    """Whether there are rows that an update leaves as they are, and skipping them is exact.

    Not on a GPU: the CPU would wait to learn their number.
    """
    table = flat.embedding_grad
    if table is None or optim.weight_decay != 0:
        return False
    return table.device.type == "cpu" and table.shape[1] % WIDTH == 0


class TouchedRows:
    """`rows`: of the embedding, which this worker updates."""

    def __init__(self, optim: OptimSection, flat: FlatParameters, rows: slice) -> None:
        whole = flat.embedding_grad
        assert whole is not None
        self._start, self._optim, self._grads = rows.start, optim, whole[rows]
        self._values, *self._moments = (
            each[: flat.embedding_size].view_as(whole)[rows]
            for each in (flat.values, *flat.moments.values())
        )
        self._copies = self._values.new_empty((4, max(1, CHUNK // whole.shape[1]), whole.shape[1]))
        self._touched: Tensor | None = None  # of each row, whether it may have moments

    def forget(self) -> None:
        """Other moments will be there at the next step, which reads them."""
        self._touched = None

    def touch(self, own_ids: Tensor, updates: int) -> Tensor:
        """Add rows of a batch, by their numbers in the whole table. Returns which are touched."""
        if self._touched is None:
            self._touched = torch.zeros(len(self._values), dtype=torch.bool)
            for moment in self._moments if updates else ():
                self._touched |= (moment != 0).any(1)
        self._touched[own_ids - self._start] = True
        return self._touched

    def step(self, own_ids: Tensor, lr: float, updates: int) -> None:
        """`own_ids`: this batch's, among `rows`. `updates`: optimizer steps before this one."""
        touched = self.touch(own_ids, updates)
        ids = touched.nonzero().squeeze(1)
        changed = self._values, *self._moments
        if COPYING * len(ids) > len(touched):
            self._adam(self._grads, changed, lr, updates)
            return
        for some in ids.split(len(self._copies[0])):
            grads, *copies = (each[: len(some)] for each in self._copies)
            torch.index_select(self._grads, 0, some, out=grads)
            for each, copy in zip(changed, copies, strict=True):
                torch.index_select(each, 0, some, out=copy)
            self._adam(grads, copies, lr, updates)
            for each, copy in zip(changed, copies, strict=True):
                each.index_copy_(0, some, copy)

    def _adam(self, grads: Tensor, changed: Sequence[Tensor], lr: float, updates: int) -> None:
        values, exp_avg, exp_avg_sq = changed
        step, (beta1, beta2) = torch.tensor(float(updates)), self._optim.betas
        adam(
            [values], [grads], [exp_avg], [exp_avg_sq], [], [step], fused=True, amsgrad=False,
            beta1=beta1, beta2=beta2, lr=lr, weight_decay=0.0, eps=self._optim.eps, maximize=False,
        )  # fmt: skip
