"""The transport of torch.distributed: Gloo between CPUs, NCCL between GPUs.

Its collectives match by their order alone. Two workers in different ones would add up unrelated
numbers of the same size, or crash. So each collective begins with its name, sent by rank 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from distsent.distributed.network import chosen_interfaces, interfaces
from distsent.distributed.rendezvous import (
    Member,
    Stop,
    choose_interface,
    meet,
    open_store,
    this_member,
)
from distsent.distributed.world import WorkerLost, World

if TYPE_CHECKING:
    from distsent.distributed.launchers import Launch

T = TypeVar("T")
# A collective may wait while one worker tokenizes for hours. The heartbeat names dead workers.
PATIENCE = timedelta(days=30)
NAME_BYTES = 64
# What all workers send together when they exchange objects. A longer rest is broadcast: a padded
# exchange of the longest would cost its size times the number of workers.
PART = 4096


def init(launch: Launch, interface: str | None, patience: float, stop: Stop) -> TorchWorld:
    """Join the workers of `launch`.

    Raises HostError or UserError if some do not come, Stopped at a stop request before they have.
    """
    if interface:
        names = ",".join(chosen_interfaces(interface, interfaces()))
        os.environ |= {"GLOO_SOCKET_IFNAME": names, "NCCL_SOCKET_IFNAME": f"={names}"}
    store = open_store(launch, patience, stop)
    me = this_member(launch.rank, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    members, own_store = meet(store, me, launch.size, patience, stop)
    if "GLOO_SOCKET_IFNAME" not in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = choose_interface(members, me)
    backend = "cpu:gloo,cuda:nccl" if has_own_gpus(members) else "gloo"
    dist.init_process_group(
        backend, store=own_store, rank=launch.rank, world_size=launch.size, timeout=PATIENCE
    )
    return TorchWorld(launch, members)


def has_own_gpus(members: list[Member]) -> bool:
    """Whether each worker has a GPU of its own, as NCCL needs. Gloo sums on shared ones, too."""
    workers: dict[str, int] = {}
    for each in members:
        workers[each.machine] = workers.get(each.machine, 0) + 1
    # A launcher may show each worker its own GPU only.
    return all(each.gpus and (each.gpus == 1 or each.gpus >= workers[each.machine])
               for each in members)  # fmt: skip


class CollectiveMismatch(Exception):
    """This worker and rank 0 are in different collectives: a mistake in the program."""


class TorchWorld(World):
    """The workers that a launcher started, connected by torch.distributed."""

    def __init__(self, launch: Launch, members: list[Member]) -> None:
        super().__init__()
        self.rank, self.size, self.why = launch.rank, launch.size, launch.why
        machine = members[self.rank].machine
        near = [each.rank for each in members if each.machine == machine]
        self.local_rank, self.local_size = near.index(self.rank), len(near)
        self.transport = "torch over NCCL" if has_own_gpus(members) else "torch over Gloo"

    def _agree(self, name: str) -> None:
        """Raises CollectiveMismatch if rank 0 enters another collective than this worker."""
        own = torch.zeros(NAME_BYTES, dtype=torch.uint8)
        text = name.encode()[-NAME_BYTES:]
        own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        first = own.clone()
        self._run(dist.broadcast, first, 0)
        if not torch.equal(own, first):
            other = bytes(first.tolist()).rstrip(b"\0").decode(errors="replace")
            raise CollectiveMismatch(f"it enters the collective {name!r}, rank 0 {other!r}")

    def _run(self, operation: Callable[..., T], *args: Any, **keys: Any) -> T:
        try:
            return operation(*args, **keys)
        except RuntimeError as error:
            raise WorkerLost(str(error)) from None

    def _start_allreduce(self, tensor: torch.Tensor, name: str) -> Any:
        with self.progress.waiting(name):
            self._agree(name)
            return self._run(dist.all_reduce, tensor, async_op=True)

    def _finish_allreduce(self, started: Any) -> None:
        self._run(started.wait)

    def _broadcast(self, tensor: torch.Tensor, name: str, root: int) -> torch.Tensor:
        self._agree(name)
        self._run(dist.broadcast, tensor, root)
        return tensor

    def _allgather_object(self, value: T, name: str) -> list[T]:
        self._agree(name)
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [int(length) for length in self._gather(torch.tensor([len(text)]))]
        width = min(max(lengths), PART)
        start = torch.zeros(width, dtype=torch.uint8)
        start[: len(text)] = text[:width]
        texts = []
        for rank, (part, length) in enumerate(zip(self._gather(start), lengths, strict=True)):
            rest = torch.empty(max(0, length - width), dtype=torch.uint8)
            if len(rest):
                if rank == self.rank:
                    rest.copy_(text[width:])
                self._run(dist.broadcast, rest, rank)
            texts.append(part[:length].numpy().tobytes() + rest.numpy().tobytes())
        return [json.loads(text) for text in texts]

    def _gather(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The tensors of all ranks; they have one shape."""
        found = [torch.empty_like(tensor) for _ in range(self.size)]
        self._run(dist.all_gather, found, tensor)
        return found

    def shutdown(self) -> None:
        dist.destroy_process_group()
