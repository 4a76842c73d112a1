"""One copy of weights and moments for all workers of a machine; each updates its part of them.

Workers that each keep their own copy all-reduce every gradient, and then all do the same update.
Here each worker reads the others' gradients of its part where they lie, and updates that part for
all: as ZeRO shards the update (Rajbhandari et al., 2020), but nothing has to be sent afterwards.
Two workers spend half the time on gradients and updates, and memory holds 12 bytes per trained
parameter once instead of once per worker.

Who may write when, with a small all-reduce between the lines:

    each worker its own gradients, also of 16 bits, in backward; all read the weights
    each worker the sums of its part, into its own gradients, and their norms; all read gradients
    each worker its part of weights and moments; all read the norms

Between steps rank 0 alone writes, while the others wait in a collective: weights and moments of a
checkpoint, the best weights, and for a moment those of a head that it publishes with a temperature.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch.linalg import vector_norm

from distsent.distributed.shared_memory import PAGE, share_memory
from distsent.distributed.world import World
from distsent.job.job import Job
from distsent.training.exchange import Part, count_chunks, whole_norm
from distsent.training.flat_parameters import CONTROL_SLOTS, MOMENTS, FlatParameters


def shares_weights(job: Job, world: World, types: Collection[str]) -> bool:
    """Whether the job asks for it, and all workers are on the CPUs of one machine.

    `types`: of their devices. A worker that dies in an update leaves it half done: the run ends and
    resumes from a checkpoint, which an elastic run must not need to do.
    """
    on_cpus = job.train.share_weights and set(types) == {"cpu"}
    return on_cpus and 1 < world.size == world.local_size and not world.elastic


class SharedReducer:
    """Moves `flat` into memory that all workers share. All workers build one, with equal weights.

    `half`: the type of the 16-bit gradients that `flat.use_half` will ask for. Those of a step's
    last backward pass stay in 16 bits until they are summed, which saves a pass over all gradients.
    Raises NotShared on all workers; `flat` is then as it was.
    """

    def __init__(self, world: World, flat: FlatParameters, half: torch.dtype | None = None) -> None:
        buffers, halves, common = shared_tensors(world, flat, half)
        values, *moments, self._row_norms, self._chunk_norms = common
        self.world, self.part, self._flat = world, Part.of(flat, world.rank, world.size), flat
        for span in self.part.spans(flat):
            values[span] = flat.values[span]
        world.barrier()
        flat.use_memory(values, dict(zip(MOMENTS, moments, strict=True)), buffers[world.rank])
        flat.half_grads = halves[world.rank] if halves else None
        flat.shared = True
        self.transport, self.workers = f"{world.transport} and shared memory", world.size
        self._gradients, self._halves = [each[: flat.size] for each in buffers], halves
        # Of what this worker has read of all workers' own gradients; then the sum over workers.
        self._own_square = torch.zeros(1, dtype=torch.float64)
        self.sent = 0  # bytes that one worker read, on average

    def arm(self) -> None:
        """Nothing leaves during backward."""

    def end_pass(self, last: bool) -> None:
        """See `Exchange.end_pass`."""
        if not last:
            self._flat.end_pass([slice(0, self._flat.size)])

    def reduce(self, token_ids: torch.Tensor) -> None:
        """See `Exchange.reduce`."""
        if (half := self._flat.half) is not None:
            # A layer that the last pass left out, and a worker without examples, have none.
            half.drop_old(slice(0, self._flat.size))
            half.end_pass()
        self.world.allreduce(self._flat.control_slots, "gradient.control")
        # All backward passes are complete, and all workers have read the norms of the last step.
        table, size = self._flat.embedding_grad, self._flat.embedding_size
        ids, own = self.part.own_rows(token_ids), [torch.zeros(())]
        if table is not None:
            rows = self._add([each[:size].view_as(table)[ids] for each in self._gradients], own)
            table.index_copy_(0, ids, rows)
            self._row_norms[ids] = vector_norm(rows, dim=1)
        for number, chunk in self.part.chunks().items():
            self._chunk_norms[number] = vector_norm(self._add(self._complete(chunk), own))
        self._own_square[0] = torch.stack(own).double().square().sum()
        touched = 0 if table is None else len(token_ids) * table.shape[1]
        others = (self.world.size - 1) / self.world.size
        self.sent = round(4 * others * (self._flat.size - size + touched))

    def _complete(self, chunk: slice) -> list[torch.Tensor]:
        """Each worker's gradients of a chunk, with those of 16 bits. Changes this worker's own."""
        start = self._flat.embedding_size
        gradients = [each[start + chunk.start : start + chunk.stop] for each in self._gradients]
        for rank, half in enumerate(self._halves):
            added = half[chunk].float()
            out = gradients[rank] if rank == self.world.rank else added  # others are only read
            gradients[rank] = torch.add(gradients[rank], added, out=out)
        return gradients

    def _add(self, gradients: list[torch.Tensor], own: list[torch.Tensor]) -> torch.Tensor:
        """Add the other workers' gradients to this one's, in place; append all norms to `own`."""
        own += map(vector_norm, gradients)
        total = gradients.pop(self.world.rank)
        for each in gradients:
            total.add_(each)
        return total

    def norms(self, token_ids: torch.Tensor) -> tuple[float, float]:
        """See `Exchange.norms`. After it, nobody reads another worker's gradients."""
        self.world.allreduce(self._own_square, "gradient.norms")
        rows = self._row_norms[token_ids if len(self._row_norms) else []]
        return whole_norm(torch.cat([rows, self._chunk_norms])), float(self._own_square)

    def finish(self) -> None:
        """Wait for the others' parts."""
        self.world.allreduce(torch.zeros(1), "gradient.updated")


def shared_tensors(
    world: World, flat: FlatParameters, half: torch.dtype | None
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Zeros for each rank's gradients and control slots; for its 16-bit gradients of all weights
    but the embedding's, if it has a type for them; and for what all workers update.

    That is weights, moments, and the norms of the embedding's rows and of the chunks.
    """
    rows = 0 if flat.embedding_grad is None else len(flat.embedding_grad)
    dense = flat.size - flat.embedding_size
    own = [flat.size + CONTROL_SLOTS, 0 if half is None else -(-dense // 2)]
    sizes = [*own, *[flat.size] * (1 + len(MOMENTS)), rows, count_chunks(flat)]
    memory = share_memory(world, sum(map(aligned, sizes if world.is_main else own)))
    parts = memory[0].split([*map(aligned, sizes)])
    common = [part[:size] for size, part in zip(sizes, parts, strict=True)][len(own) :]
    halves = [each[aligned(own[0]) :].view(half)[:dense] for each in memory] if half else []
    return [each[: own[0]] for each in memory], halves, common


def aligned(count: int) -> int:
    """`count` numbers, rounded up to pages.

    torch begins its tensors at multiples of 64 bytes. Products of others differ in their last bits.
    """
    return -(-count // PAGE) * PAGE
