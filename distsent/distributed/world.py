"""The collectives that workers use, and their results in a world of one process.

Everything that crosses the wire is a tensor; objects travel as JSON text, never as pickles.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from distsent.distributed.progress import Progress
from distsent.errors import MORE_MEMORY, Stopped, UserError, WorkerFailed, out_of_memory
from distsent.machine_errors import is_out_of_memory

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Handle = tuple[str, Any]  # the name of an all-reduce, and what its transport waits for


class MembershipChanged(Exception):
    """Workers were lost or are waiting to join: call `World.rejoin`, then continue from memory."""


class WorkerLost(RuntimeError):
    """A collective failed: another worker is gone."""


class World:
    """All workers of a run. This class is the world of one process: each collective is a no-op."""

    rank, size = 0, 1
    local_rank, local_size = 0, 1
    transport = "none"  # its name in logs and checkpoints
    why = ""  # who started the workers
    elastic = False  # workers may come and go: any collective may then raise MembershipChanged

    def __init__(self) -> None:
        self.progress = Progress()

    @property
    def is_main(self) -> bool:
        """Whether this worker is rank 0, which writes shared files."""
        return self.rank == 0

    @property
    def membership_changed(self) -> bool:
        """Whether other workers are waiting to join or about to leave."""
        return False

    def rejoin(self) -> None:
        """Form a new world with the workers that exist now. Rank and size may change."""

    def fail_collectives(self) -> None:
        """Elastic: make collectives fail that wait for a lost worker. Called from any thread."""

    def allreduce_async(self, tensor: torch.Tensor, name: str) -> Handle:
        """Start summing `tensor` over all workers, in place. Returns a handle for `wait`."""
        self.progress.enter(name)
        return name, self._start_allreduce(tensor, name)

    def wait(self, handle: Handle) -> None:
        """Wait for an `allreduce_async`."""
        name, started = handle
        with self.progress.waiting(name):
            self._finish_allreduce(started)

    def allreduce(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        """Sum `tensor` over all workers, in place."""
        self.wait(self.allreduce_async(tensor, name))
        return tensor

    def broadcast(self, tensor: torch.Tensor, name: str, root: int = 0) -> torch.Tensor:
        """Copy the `tensor` of rank `root` to all workers, in place."""
        self.progress.enter(name)
        with self.progress.waiting(name):
            return self._broadcast(tensor, name, root)

    def allgather_object(self, value: T, name: str) -> list[T]:
        """The JSON value of every rank, in rank order, on every worker."""
        self.progress.enter(name)
        with self.progress.waiting(name):
            return self._allgather_object(value, name)

    def barrier(self) -> None:
        """Wait for all workers."""
        self.allgather_object(None, "barrier")

    def on_main(self, make: Callable[[], T], name: str) -> T:
        """Run `make` on rank 0. All workers get its JSON value, or all raise what it raised."""
        value, error = attempt(make if self.is_main else lambda: None)
        made, problem = self.allgather_object((value, error_to_json(error)), name)[0]
        raise_first([problem], error)
        return made

    def all_or_raise(self, make: Callable[[], T], name: str) -> T:
        """Run `make` on every worker. If it fails on one of them, all raise."""
        value, error = attempt(make)
        raise_first(self.allgather_object(error_to_json(error), name), error)
        return value

    def raise_together(self, own: UserError | None, name: str) -> None:
        """Raise the error of the lowest rank that has one on all workers. All call this."""
        raise_first(self.allgather_object(error_to_json(own), name), own)

    def assert_equal_across_ranks(self, value: object, what: str) -> None:
        """Check that all workers hold an equal JSON value. Raises UserError naming the ranks."""
        own = [socket.gethostname(), json.dumps(value, sort_keys=True)]
        values = self.allgather_object(own, f"equal.{what}")
        odd = [rank for rank, (_, other) in enumerate(values) if other != values[0][1]]
        if odd:
            (host, other), (main, first) = values[odd[0]], values[0]
            here, there = difference(json.loads(other), json.loads(first))
            found = f"rank {odd[0]} on {host} has {here}, rank 0 on {main} has {there}"
            found += f" ({len(odd)} of {self.size} differ from rank 0)"
            fix = "give all nodes the same files and the same software"
            raise UserError(f"{what} differs between workers: {found}; {fix}")

    def shutdown(self) -> None:
        """Leave the world in good order."""

    # What a transport implements. Here: the world of one process.

    def _start_allreduce(self, tensor: torch.Tensor, name: str) -> Any:
        return None

    def _finish_allreduce(self, started: Any) -> None:
        pass

    def _broadcast(self, tensor: torch.Tensor, name: str, root: int) -> torch.Tensor:
        return tensor

    def _allgather_object(self, value: T, name: str) -> list[T]:
        # As between workers: what cannot travel fails in one process, too, and tuples become lists.
        return [json.loads(json.dumps(value))]


def difference(a: Any, b: Any, name: str = "") -> tuple[str, str]:
    """Where two JSON values differ first: what is there in each, with its name."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            if json.dumps(a.get(key)) != json.dumps(b.get(key)):
                return difference(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    texts = (json.dumps(value, ensure_ascii=False) for value in (a, b))
    here, there = (text if len(text) <= 80 else f"{text[:77]}..." for text in texts)
    return (f"{name} = {here}", f"{name} = {there}") if name else (here, there)


def attempt(make: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """The value of `make`, or its error, which the other workers would else wait for forever."""
    try:
        return make(), None
    except Exception as error:
        if is_out_of_memory(error):
            return None, out_of_memory(error, "preparing", MORE_MEMORY)
        return None, error


def error_to_json(error: Exception | None) -> dict[str, Any] | None:
    if error is None:
        return None
    if isinstance(error, UserError):
        keys = {"fix": error.fix, "others": error.others}
        return {"lines": list(error.lines), "code": error.code, **keys}
    if isinstance(error, Stopped):
        return {"stopped": str(error)}
    return {"failed": f"{type(error).__name__}: {error}"}


def raise_first(reports: Sequence[dict[str, Any] | None], own: Exception | None) -> None:
    """Re-raise the error of the lowest failing rank on all workers.

    The worker where an unexpected error happened raises it with its traceback.
    """
    for rank, report in enumerate(reports):
        if report is None:
            continue
        if "lines" in report:
            where = f"rank {rank}: " if rank else ""
            lines, code = (f"{where}{line}" for line in report["lines"]), report["code"]
            keys = {name: report[name] for name in ("fix", "others") if name in report}
            raise UserError(*lines, code=code, **keys)
        if "stopped" in report:
            raise Stopped(report["stopped"])
        raise own or WorkerFailed(f"rank {rank} failed: {report['failed']}")
