"""Workers that silently hold different weights: a flipped bit, a bad card, a bug. Looked for every so often, by a cheap sum."""

from __future__ import annotations

from collections import Counter

import torch

from distsent.comm import World
from distsent.errors import FAILED, UserError
from distsent.training.flat import Flat

EVERY = 100  # steps


class Diverged(UserError):
    """Some worker's weights differ from the others'; str() names rank and tensor."""


def check(world: World, flat: Flat, step: int) -> None:
    """Compare all workers' weights. Raises Diverged on all of them together."""
    if world.size == 1:
        return
    sums = world.gather(bits(flat.values), "divergence.sum")
    if len(set(sums)) == 1:
        return
    each = world.gather({name: bits(value) for name, value in flat.split(flat.values).items()}, "divergence.each")
    ((usual, count),) = Counter(sums).most_common(1)
    rank = next(rank for rank, value in enumerate(sums) if value != usual)
    other = sums.index(usual)
    name = next(name for name in each[0] if each[rank][name] != each[other][name])
    doubt = f"rank {rank}" if count > 1 else f"rank {rank} or rank {other}"
    raise Diverged(
        f"after step {step}, rank {rank} holds other weights than rank {other} in {name}: memory or hardware of {doubt} is to be "
        "doubted; the last checkpoint holds weights that were the same on all",
        code=FAILED,
    )


def bits(values: torch.Tensor) -> int:
    """The sum of a tensor's bits taken as whole numbers, modulo 2**64: one flipped bit anywhere changes it."""
    flat = values.detach().reshape(-1)
    if flat.element_size() == 4 and (flat.numel() % 2 or flat.storage_offset() % 2):
        return int(flat.view(torch.int32).sum(dtype=torch.int64))
    return int(flat.view(torch.int64).sum())  # eight bytes at a time: ten times as fast
