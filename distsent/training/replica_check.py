"""Detects workers that hold different numbers: a flipped bit, bad hardware, a bug, other files."""

import sys
from collections import Counter
from pathlib import Path

import torch
from torch import nn
from xxhash import xxh3_128_hexdigest

from distsent.distributed.world import World
from distsent.errors import FAILED, UserError
from distsent.training.flat_parameters import FlatParameters

EVERY = 100  # steps


class ReplicaMismatch(UserError):
    """A worker's weights differ from the others'; str() names rank and tensor."""


def check_loaded_model(world: World, model: nn.Module) -> None:
    """Compare the complete loaded model, frozen parts included.

    Raises UserError on all workers; in an elastic world only on those that differ from rank 0.
    """
    if world.size == 1:
        return
    hashes = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        hashes[name] = xxh3_128_hexdigest(flat.view(torch.uint8).numpy().data)
    hashes |= code_hashes(model)
    digest = xxh3_128_hexdigest(repr(hashes).encode())
    digests = world.allgather_object(digest, "replica.model")
    if len(set(digests)) == 1:
        return
    rank = next(rank for rank, value in enumerate(digests) if value != digests[0])
    if world.elastic:
        if digests[world.rank] == digests[0]:
            return
        rank, name = world.rank, "model"
    else:
        each = world.allgather_object(hashes, "replica.model.tensors")
        names = (*each[0], *each[rank])
        name = next(name for name in names if each[rank].get(name) != each[0].get(name))
    raise UserError(
        f"model.name: rank {rank} loaded a different {name} than rank 0; give all nodes the same "
        "files (model.revision selects one version of a hub model)"
    )


def code_hashes(model: nn.Module) -> dict[str, str]:
    """Of the files that define the model's layers: a patched copy computes something else."""
    names = sorted({type(layer).__module__ for layer in model.modules()})
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in names}
    return {
        f"code of {name}": xxh3_128_hexdigest(Path(file).read_bytes())
        for name, file in files.items()
        if file
    }


def check_replicas(world: World, flat: FlatParameters, step: int) -> None:
    """Compare all workers' weights and moments. Raises ReplicaMismatch on all workers."""
    if world.size == 1 or flat.shared:
        return
    tensors = {"weights": flat.values, **flat.moments}
    own = [bit_sum(tensor) for tensor in tensors.values()]
    sums = [tuple(values) for values in world.allgather_object(own, "replica.sums")]
    if len(set(sums)) == 1:
        return
    ((usual, count),) = Counter(sums).most_common(1)
    rank = next(rank for rank, values in enumerate(sums) if values != usual)
    other = sums.index(usual)
    kind = next(k for k, a, b in zip(tensors, sums[rank], usual, strict=True) if a != b)
    parts = {name: bit_sum(part) for name, part in flat.split(tensors[kind]).items()}
    each = world.allgather_object(parts, "replica.tensors")
    name = next(name for name in each[0] if each[rank][name] != each[other][name])
    suspect = f"rank {rank}" if count > 1 else f"rank {rank} or rank {other}"
    raise ReplicaMismatch(
        f"after step {step}, rank {rank} holds different {kind} than rank {other} in {name}: "
        f"suspect faulty memory or hardware on {suspect}; the last checkpoint is from before",
        code=FAILED,
    )


def bit_sum(tensor: torch.Tensor) -> int:
    """The sum of a tensor's bits as integers, modulo 2**64: any one flipped bit changes it."""
    flat = tensor.detach().reshape(-1)
    if flat.element_size() == 4 and (flat.numel() % 2 or flat.storage_offset() % 2):
        return int(flat.view(torch.int32).sum(dtype=torch.int64))
    return int(flat.view(torch.int64).sum())  # eight bytes at a time: ten times as fast
