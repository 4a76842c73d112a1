"""Work that several processes share: what one of them fails at, all of them learn, and nobody is left waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from distsent.errors import UserError

T = TypeVar("T")


class Alone:
    """One process: the interface, and what it means without a launcher."""

    rank = 0
    size = 1

    def all(self, work: Callable[[], T]) -> T:
        """Run `work` on every rank; if it fails on any, every rank raises."""
        return work()

    def first(self, work: Callable[[], T]) -> T:
        """The value of `work`, run on rank 0, on every rank."""
        return work()


class Ranks(Alone):
    """The processes of an MPI communicator (mpi4py's)."""

    def __init__(self, communicator: Any) -> None:
        self._comm = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def all(self, work: Callable[[], T]) -> T:
        value: Any = None
        crash: Exception | None = None
        lines: tuple[str, ...] = ()
        try:
            value = work()
        except UserError as error:
            lines = error.lines
        except Exception as error:  # the others must learn of it, or they would wait for ever
            crash, lines = error, (f"rank {self.rank} failed: {type(error).__name__}: {error}",)
        failures = [lines for lines in self._comm.allgather(lines) if lines]
        if crash is not None:
            raise crash
        if failures:
            raise UserError(*failures[0])
        result: T = value
        return result

    def first(self, work: Callable[[], T]) -> T:
        value: T = self._comm.bcast(self.all(lambda: work() if self.rank == 0 else None))
        return value
