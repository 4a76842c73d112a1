"""Workers that silently hold different numbers: a flipped bit, a bad card, a bug, other files. Looked for by cheap sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import nn
from xxhash import xxh3_128_hexdigest

from distsent.distributed.world import World
from distsent.errors import FAILED, UserError
from distsent.training.flat_parameters import FlatParameters

EVERY = 100  # steps


class ReplicaMismatch(UserError):
    """Some worker's weights differ from the others'; str() names rank and tensor."""


def check_model(world: World, model: nn.Module) -> None:
    """Compare all of a model as it was read, what stays frozen too. Raises UserError on all workers together, and in an elastic
    world on those alone that differ from the first.
    """
    if world.size == 1:
        return
    hashes = {
        name: xxh3_128_hexdigest(
            x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        )
        for name, x in (*model.named_parameters(), *model.named_buffers())
    }
    whole = world.allgather_object(xxh3_128_hexdigest(repr(hashes).encode()), "divergence.model")
    if len(set(whole)) == 1:
        return
    rank = next(rank for rank, value in enumerate(whole) if value != whole[0])
    if world.elastic:
        if whole[world.rank] == whole[0]:
            return
        rank, name = world.rank, "model"
    else:
        each = world.allgather_object(hashes, "divergence.model.each")
        name = next(
            name for name in (*each[0], *each[rank]) if each[rank].get(name) != each[0].get(name)
        )
    raise UserError(
        f"model.name: rank {rank} has read another {name} than rank 0; give all nodes the same files (model.revision pins one of "
        "the hub)"
    )


def check_replicas(
    world: World, flat: FlatParameters, moments: Mapping[str, Sequence[torch.Tensor]], step: int
) -> None:
    """Compare all workers' weights and the optimizer's moments. Raises ReplicaMismatch on all of them together."""
    if world.size == 1:
        return
    held = {"weights": (flat.values,), **moments}
    sums = world.allgather_object(
        [sum(bits(x) for x in stretches) for stretches in held.values()], "divergence.sum"
    )
    whole = [tuple(values) for values in sums]
    if len(set(whole)) == 1:
        return
    ((usual, count),) = Counter(whole).most_common(1)
    rank = next(rank for rank, values in enumerate(whole) if values != usual)
    other = whole.index(usual)
    kind = next(
        kind for kind, mine, theirs in zip(held, whole[rank], usual, strict=True) if mine != theirs
    )
    each = world.allgather_object(
        {name: bits(x) for name, x in flat.split(*held[kind]).items()}, "divergence.each"
    )
    name = next(name for name in each[0] if each[rank][name] != each[other][name])
    doubt = f"rank {rank}" if count > 1 else f"rank {rank} or rank {other}"
    raise ReplicaMismatch(
        f"after step {step}, rank {rank} holds {'other weights' if kind == 'weights' else f'another {kind}'} than rank {other} in "
        f"{name}: memory or hardware of {doubt} is to be doubted; the last checkpoint holds what was the same on all",
        code=FAILED,
    )


def bits(values: torch.Tensor) -> int:
    """The sum of a tensor's bits taken as whole numbers, modulo 2**64: one flipped bit anywhere changes it."""
    flat = values.detach().reshape(-1)
    if flat.element_size() == 4 and (flat.numel() % 2 or flat.storage_offset() % 2):
        return int(flat.view(torch.int32).sum(dtype=torch.int64))
    return int(flat.view(torch.int64).sum())  # eight bytes at a time: ten times as fast
