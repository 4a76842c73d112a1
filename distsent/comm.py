"""How workers talk: the only file that imports Horovod.

One process without any launcher is a world of one: nothing here needs Horovod then, and every collective is the identity.
Everything that crosses the wire is a tensor; objects travel as JSON text, never as pickles.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from distsent.errors import Crashed, Stopped, UserError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

# Who says how many workers there are, the most specific first. SLURM's variables count only inside a step (srun):
# in a batch script SLURM_NTASKS describes the allocation, not this process.
PROMISES = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")

# One tensor an exchange: the order of a sum then depends on the tensor and the number of workers alone, so the same run at
# the same -np gives the same bits (fusing whatever happens to be ready does not).
UNFUSED = {"HOROVOD_FUSION_THRESHOLD": "0", "HOROVOD_CYCLE_TIME": "1"}  # bytes, milliseconds
# A waiting Open MPI spins: it must give way to the threads that compute. Halved the CPU time of 4 workers on 2 cores.
POLITE = {"OMPI_MCA_mpi_yield_when_idle": "1"}
# Gloo gives a silent worker up after 30 s: before the pulse has named it, or before one that joins has its imports behind it.
PATIENT = {"HOROVOD_GLOO_TIMEOUT_SECONDS": "180"}


class WorkersChanged(Exception):
    """Workers were lost, or others wait to join: `World.renew`, then go on from what this worker holds in memory."""


class WorkerLost(RuntimeError):
    """A collective failed: another worker is gone."""


def promised(env: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """The launcher's word for the number of workers: (variable, count), or None without a launcher."""
    if "SLURM_STEP_ID" not in env:
        env = {name: value for name, value in env.items() if not name.startswith("SLURM_")}
    for name in PROMISES:
        if env.get(name, "").isdigit():
            return name, int(env[name])
    return None


def start(env: Mapping[str, str] = os.environ) -> World:
    """Join the workers that the launcher started. Raises UserError when the world is not the one that was promised."""
    promise, elastic = promised(env), env.get("HOROVOD_ELASTIC") == "1"
    if promise is None or (promise[1] == 1 and not elastic):
        return World()
    name, count = promise
    if name.startswith("SLURM_") and not any(key.startswith(("PMI_", "PMIX_")) for key in env):
        # Said here, because Open MPI would abort the process instead of failing.
        raise UserError(
            f"{name}={count} promises {count} workers, but SLURM gives them no PMI to find each other with: use `srun --mpi=pmix` "
            "(`srun --mpi=list` shows what there is), or start with `horovodrun`"
        )
    try:
        for key, value in (PATIENT if elastic else UNFUSED | POLITE | PATIENT).items():
            os.environ.setdefault(key, value)
        import horovod.torch as hvd
    except ImportError as error:
        raise UserError(
            f"{name}={count} promises {count} workers, but Horovod cannot be imported here ({error}): install it with "
            "`make setup`, or run `python -m distsent.train` without a launcher"
        ) from None
    hvd.init()
    if elastic:
        return ElasticWorld(hvd)
    if hvd.size() != count:
        raise UserError(
            f"{name}={count} promises {count} workers, but this process sees {hvd.size()}: the launcher and Horovod's MPI do "
            "not know each other; under SLURM use `srun --mpi=pmix` (`srun --mpi=list` shows what there is), or start with "
            "`horovodrun`; `python -m distsent.doctor` looks closer"
        )
    return HorovodWorld(hvd)


class World:
    """A world of one: the interface, and what it means without a launcher."""

    rank = 0
    size = 1
    local_rank = 0
    local_size = 1
    elastic = False  # whether workers may come and go while a run goes on: any collective may then raise WorkersChanged

    @property
    def first(self) -> bool:
        """Whether this worker writes what is shared."""
        return self.rank == 0

    @property
    def outdated(self) -> bool:
        """Whether this worker has heard that others wait to join, or are to leave."""
        return False

    def renew(self) -> None:
        """Meet the workers that are there now; ranks and size may be others than before."""

    def begin_sum(self, tensor: torch.Tensor, name: str) -> Any:
        """Start adding `tensor` up over all workers, in place; `finish` waits for it. One name, one shape, for ever."""
        return None

    def finish(self, handle: Any) -> None:
        """Wait for a sum begun with `begin_sum`."""

    def sum(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Add `tensor` up over all workers, in place."""
        self.finish(self.begin_sum(tensor, name))
        return tensor

    def broadcast(self, tensor: torch.Tensor, name: str, root: int = 0) -> torch.Tensor:
        """Give every worker the `tensor` of worker `root`, in place."""
        return tensor

    def gather(self, value: T, name: str) -> list[T]:
        """Every worker's JSON value, in the order of ranks, on every worker."""
        return [value]

    def barrier(self) -> None:
        """Wait for all workers."""
        self.gather(None, "barrier")

    def once(self, make: Callable[[], T], name: str) -> T:
        """The first worker runs `make`; all get its JSON value, or all raise its UserError or Stopped."""
        value: list[T] = []
        ending = attempt(lambda: value.append(make())) if self.first else None
        made, problem = self.gather((value, report(ending)), name)[0]
        resolve([problem], ending)
        return made[0]

    def together(self, make: Callable[[], T], name: str) -> T:
        """Every worker runs `make` and gets its own value; what ends it on one of them, all raise."""
        value: list[T] = []
        ending = attempt(lambda: value.append(make()))
        resolve(self.gather(report(ending), name), ending)
        return value[0]

    def agree(self, value: object, what: str) -> None:
        """Check that all workers hold an equal JSON value. Raises UserError naming the ranks that differ."""
        values = self.gather(json.dumps(value, sort_keys=True), f"agree.{what}")
        odd = [rank for rank, other in enumerate(values) if other != values[0]]
        if odd:
            raise UserError(
                f"{what} differs between workers: rank {odd[0]} has {values[odd[0]]}, rank 0 has {values[0]} "
                f"({len(odd)} of {self.size} differ from rank 0); give all nodes the same files and the same software"
            )

    def end(self) -> None:
        """Leave the world in good order."""


def attempt(make: Callable[[], object]) -> Exception | None:
    """What ends `make`: the others must learn of it, or they would wait for ever."""
    try:
        make()
    except Exception as error:
        return error
    return None


def report(ending: Exception | None) -> dict[str, Any] | None:
    """What ended a worker, as JSON."""
    if ending is None:
        return None
    if isinstance(ending, UserError):
        return {"lines": list(ending.lines), "code": ending.code}
    if isinstance(ending, Stopped):
        return {"stopped": str(ending)}
    return {"crash": f"{type(ending).__name__}: {ending}"}


def resolve(reports: Sequence[dict[str, Any] | None], own: Exception | None) -> None:
    """Raise what ended the lowest of the ranks that met an end, the same on all; a crash with its traceback where it happened."""
    rank, found = next(((rank, found) for rank, found in enumerate(reports) if found is not None), (0, None))
    if found is None:
        return
    if "lines" in found:
        where = f"rank {rank}: " if rank else ""
        raise UserError(*(f"{where}{line}" for line in found["lines"]), code=found["code"])
    if "stopped" in found:
        raise Stopped(found["stopped"])
    raise own or Crashed(f"worker {rank} failed: {found['crash']}")


class HorovodWorld(World):
    """The workers of a launcher."""

    def __init__(self, hvd: Any) -> None:
        from horovod.common.exceptions import HorovodInternalError

        self._hvd, self._failed = hvd, HorovodInternalError
        self._look()

    def _look(self) -> None:
        hvd = self._hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def _do(self, collective: Callable[..., T], *args: Any, **options: Any) -> T:
        """Every talk with the other workers goes through here."""
        try:
            return collective(*args, **options)
        except self._failed as error:
            raise WorkerLost(str(error)) from None

    def begin_sum(self, tensor: torch.Tensor, name: str) -> Any:
        return self._do(self._hvd.allreduce_async_, tensor, op=self._hvd.Sum, name=name)

    def finish(self, handle: Any) -> None:
        self._do(self._hvd.synchronize, handle)

    def broadcast(self, tensor: torch.Tensor, name: str, root: int = 0) -> torch.Tensor:
        return self._do(self._hvd.broadcast_, tensor, root_rank=root, name=name)

    def gather(self, value: T, name: str) -> list[T]:
        import torch

        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = self._do(self._hvd.allgather, torch.tensor([len(text)]), name=f"{name}.size")
        texts = self._do(self._hvd.allgather, text, name=name).split(sizes.tolist())
        return [json.loads(bytes(part.tolist())) for part in texts]

    def end(self) -> None:
        self._hvd.shutdown()


class ElasticWorld(HorovodWorld):
    """Workers that come and go: `horovodrun --min-np 2 --max-np 4 --host-discovery-script ...`.

    A lost worker makes the others' collectives fail; of new ones the launcher tells the first worker.
    Horovod 0.28 cannot start a second time in a process where HOROVOD_FUSION_THRESHOLD or HOROVOD_CYCLE_TIME was set (it crashes
    in BayesianParameter::SetValue): here one sum follows another instead, so that there is nothing to fuse.
    """

    elastic = True

    def __init__(self, hvd: Any) -> None:
        from horovod.common.elastic import notification_manager

        super().__init__(hvd)
        self._news = threading.Event()
        notification_manager.init()
        notification_manager.register_listener(self)

    def begin_sum(self, tensor: torch.Tensor, name: str) -> Any:
        super().finish(super().begin_sum(tensor, name))

    def finish(self, handle: Any) -> None:
        """Nothing is left to wait for."""

    def together(self, make: Callable[[], T], name: str) -> T:
        """As everywhere; but who fails leaves alone: the others lose a worker, which ends nothing here."""
        value = make()
        self.gather(None, name)
        return value

    def on_hosts_updated(self, timestamp: float, update: object) -> None:
        """Called by Horovod, in a thread of its own."""
        self._news.set()

    @property
    def outdated(self) -> bool:
        return self._news.is_set()

    def renew(self) -> None:
        self._news.clear()
        self._hvd.shutdown()
        self._hvd.init()  # waits until the launcher has a whole world again
        self._look()
        os.environ["HOROVOD_RANK"] = str(self.rank)  # the launcher's word of the start is outdated

    def _do(self, collective: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return super()._do(collective, *args, **options)
        except WorkerLost as error:
            raise WorkersChanged(str(error)) from None
