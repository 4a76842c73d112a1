"""What holds for all tests: toy sizes want one thread each, and no test reaches for the network."""

import os

import pytest

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: two threads on a tiny tensor are slower than one
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Two test processes share a machine of two cores (make test): what starts workers goes one after another in one of them, clusters
# in another, since each of these fills the machine; the many small files take what is left.
HEAVY = {"chaos": "workers", "parallel": "workers", "real": "workers", "cluster": "clusters"}


def pytest_itemcollected(item: pytest.Item) -> None:
    item.add_marker(pytest.mark.xdist_group(HEAVY.get(item.path.parent.name, item.path.name)))
