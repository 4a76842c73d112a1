"""The MPI transport of `prepare`: objects only, through mpi4py, without torch or Horovod."""

import json
from typing import Any, TypeVar

from distsent.distributed.world import World

T = TypeVar("T")


class MpiWorld(World):
    """The processes of an mpi4py communicator. There are no tensor collectives."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def allgather_object(self, value: T, name: str) -> list[T]:
        return [json.loads(text) for text in self._communicator.allgather(json.dumps(value))]
