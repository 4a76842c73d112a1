"""The Horovod transport: the only file of the package that imports Horovod."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from distsent.distributed.host_name import host_name_fix, host_name_problem
from distsent.distributed.network import chosen_interfaces, interfaces
from distsent.distributed.sockets import Connection, shut_down, tcp_connections
from distsent.distributed.world import MembershipChanged, WorkerLost, World
from distsent.errors import FAILED, HostError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# One tensor an exchange: the order of a sum then depends on the tensor and the number of workers
# alone, so the same run at the same -np gives the same bits. Fusing whatever is ready does not.
UNFUSED = {"HOROVOD_FUSION_THRESHOLD": "0", "HOROVOD_CYCLE_TIME": "1"}  # bytes, milliseconds
# Open MPI spins while it waits. Yielding instead halved the CPU time of 4 workers on 2 cores.
YIELD_WHEN_IDLE = {"OMPI_MCA_mpi_yield_when_idle": "1"}
# Gloo's 30 s timeout fires before the heartbeat can name a dead worker, or before a joining worker
# has finished importing.
GLOO_TIMEOUT = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "180"}


def init(elastic: bool, interface: str | None = None) -> HorovodWorld:
    """Join Horovod's world. `interface`: of the network, such as ib0.

    Raises ImportError where Horovod is not installed, HostError where Gloo would crash.
    """
    name = socket.gethostname()
    if os.environ.get("HOROVOD_CONTROLLER") == "gloo" and (problem := host_name_problem(name)):
        raise HostError(f"{problem}; {host_name_fix(name)}", code=FAILED)
    defaults = GLOO_TIMEOUT if elastic else UNFUSED | YIELD_WHEN_IDLE | GLOO_TIMEOUT
    if interface:
        names = chosen_interfaces(interface, interfaces())
        defaults |= {"HOROVOD_GLOO_IFACE": names[0], "NCCL_SOCKET_IFNAME": f"={','.join(names)}"}
    for key, value in defaults.items():
        os.environ.setdefault(key, value)
    import horovod.torch as hvd

    before = tcp_connections()
    hvd.init()
    if elastic:
        return ElasticHorovodWorld(hvd, tcp_connections() - before)
    return HorovodWorld(hvd)


class HorovodWorld(World):
    """The workers that a launcher started, connected by Horovod."""

    lost: type[Exception] = WorkerLost  # raised when a collective fails

    def __init__(self, hvd: Any) -> None:
        import torch
        from horovod.common.exceptions import HorovodInternalError

        super().__init__()
        self._hvd, self._failed = hvd, HorovodInternalError
        self._read_ranks()
        self.transport = f"Horovod over {'MPI' if hvd.mpi_enabled() else 'Gloo'}"
        if hvd.nccl_built() and torch.cuda.is_available():
            self.transport = "Horovod over NCCL"

    def _read_ranks(self) -> None:
        self.rank, self.size = self._hvd.rank(), self._hvd.size()
        self.local_rank, self.local_size = self._hvd.local_rank(), self._hvd.local_size()

    def _collective(self, operation: Callable[..., T], *args: Any, **options: Any) -> T:
        """Run a collective. All of them go through here."""
        try:
            return operation(*args, **options)
        except self._failed as error:
            raise self.lost(str(error)) from None

    def _start_allreduce(self, tensor: torch.Tensor, name: str) -> Any:
        hvd = self._hvd
        return self._collective(hvd.allreduce_async_, tensor, op=hvd.Sum, name=name)

    def _finish_allreduce(self, started: Any) -> None:
        self._collective(self._hvd.synchronize, started)

    def _broadcast(self, tensor: torch.Tensor, name: str, root: int) -> torch.Tensor:
        return self._collective(self._hvd.broadcast_, tensor, root_rank=root, name=name)

    def _allgather_object(self, value: T, name: str) -> list[T]:
        import torch

        allgather = self._hvd.allgather
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self._collective(allgather, torch.tensor([len(text)]), name=f"{name}.size")
        texts = self._collective(allgather, text, name=name).split(sizes.tolist())
        return [json.loads(bytes(part.tolist())) for part in texts]

    def shutdown(self) -> None:
        self._hvd.shutdown()


class ElasticHorovodWorld(HorovodWorld):
    """Workers join and leave: `horovodrun --min-np 2 --max-np 4 --host-discovery-script ...`.

    A lost worker makes the others' collectives fail. The launcher notifies rank 0 of new ones.
    Horovod 0.28 cannot start a second time in a process where HOROVOD_FUSION_THRESHOLD or
    HOROVOD_CYCLE_TIME was set (it crashes in BayesianParameter::SetValue). Here each all-reduce
    waits for the one before, so that there is nothing to fuse.
    """

    elastic = True
    lost: type[Exception] = MembershipChanged

    def __init__(self, hvd: Any, connections: set[Connection]) -> None:
        from horovod.common.elastic import notification_manager

        super().__init__(hvd)
        self._connections = connections  # Gloo's, to the other workers
        self._hosts_updated = threading.Event()
        notification_manager.init()
        notification_manager.register_listener(self)

    def _start_allreduce(self, tensor: torch.Tensor, name: str) -> Any:
        with self.progress.waiting(name):
            super()._finish_allreduce(super()._start_allreduce(tensor, name))

    def _finish_allreduce(self, started: Any) -> None:
        """Nothing: `_start_allreduce` has waited."""

    def all_or_raise(self, make: Callable[[], T], name: str) -> T:
        """Only the worker that fails raises. The others lose it and continue."""
        value = make()
        self.allgather_object(None, name)
        return value

    def on_hosts_updated(self, timestamp: float, update: object) -> None:
        """Called by Horovod in a thread of its own."""
        self._hosts_updated.set()

    @property
    def membership_changed(self) -> bool:
        return self._hosts_updated.is_set()

    def fail_collectives(self) -> None:
        shut_down(self._connections)

    def rejoin(self) -> None:
        self._hosts_updated.clear()
        self._hvd.shutdown()
        before = tcp_connections()
        self._hvd.init()  # waits until the launcher has a complete world again
        self._connections = tcp_connections() - before
        self._read_ranks()
        os.environ["HOROVOD_RANK"] = str(self.rank)  # the launcher's value is outdated
