"""Workers that silently hold different weights: a flipped bit, a bad card, a bug. Looked for every so often, by a cheap sum."""

from __future__ import annotations

import torch

from distsent.comm import World
from distsent.training.flat import Flat

EVERY = 100  # steps


class Diverged(RuntimeError):
    """Some worker's weights differ from the first one's; str() names rank and tensor."""


def check(world: World, flat: Flat, step: int) -> None:
    """Compare all workers' weights. Raises Diverged on all of them together."""
    if world.size == 1:
        return
    sums = world.gather(bits(flat.values), "divergence.sum")
    if len(set(sums)) == 1:
        return
    each = world.gather({name: bits(value) for name, value in flat.split(flat.values).items()}, "divergence.each")
    rank = next(rank for rank, value in enumerate(sums) if value != sums[0])
    name = next(name for name in each[0] if each[rank][name] != each[0][name])
    raise Diverged(
        f"after step {step}, rank {rank} holds other weights than rank 0 in {name}: memory or hardware of that worker is to be "
        "doubted; the last checkpoint is rank 0's"
    )


def bits(values: torch.Tensor) -> int:
    """The sum of a tensor's bits taken as whole numbers, modulo 2**64: one flipped bit anywhere changes it."""
    return int(values.detach().contiguous().view(torch.int32 if values.element_size() == 4 else torch.int64).sum(dtype=torch.int64))
