"""What holds for all tests: toy sizes want one thread each, and no test reaches for the network."""

import os
from pathlib import Path
from typing import Any

import pytest

os.environ["OMP_NUM_THREADS"] = (
    "1"  # before torch is imported: two threads on a tiny tensor are slower than one
)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Two test processes share a machine of two cores (make test): what starts workers goes one after another in one of them, clusters
# in another, since each of these fills the machine; the many small files take what is left.
HEAVY = {"chaos": "workers", "parallel": "workers", "real": "workers", "cluster": "clusters"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            return HEAVY.get(path.parent.name, path.name)

    return ByRoom(config, log)
