"""The MPI transport of `prepare`: objects only, through mpi4py, without torch or Horovod."""

import json
from typing import Any

from distsent.distributed.world import World


class MpiWorld(World):
    """The processes of an mpi4py communicator. There are no tensor collectives."""

    def __init__(self, communicator: Any) -> None:
        super().__init__()
        self._communicator = communicator
        self.rank, self.size = communicator.rank, communicator.size

    def _allgather_object(self, value: Any, name: str) -> list[Any]:
        return [json.loads(text) for text in self._communicator.allgather(json.dumps(value))]
