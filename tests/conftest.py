"""For all tests: one thread for tiny tensors, no network, heavy tests on one process of xdist."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# Set before torch is imported: two threads on a tiny tensor are slower than one.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

settings.register_profile("distsent", deadline=None)  # a busy machine is not a failure
settings.load_profile("distsent")

HANDLERS = {n: signal.getsignal(n) for n in signal.valid_signals() - {signal.SIGALRM}}


@pytest.fixture(autouse=True)
def signals_as_at_first() -> Iterator[None]:
    """A training in this process ends with its signals ignored, and children inherit that."""
    restore_signals()
    yield
    restore_signals()


def restore_signals() -> None:
    for number, handler in HANDLERS.items():
        if handler is not None and signal.getsignal(number) is not handler:
            signal.signal(number, handler)


# `make test` runs two test processes on two cores. Tests that start workers run one after another
# in one of them, clusters in the other, because each of these fills the machine; small files, and
# trainings on real corpora, go to whichever process is free.
HEAVY = {
    "chaos": "workers",
    "hosts": "workers",
    "parallel": "workers",
    "real": "trainings",
    "cluster": "clusters",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByFolder(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = Path(nodeid.partition("::")[0])
            if path.parent.name == "gpu":  # each compiles kernels for seconds
                return nodeid
            return HEAVY.get(path.parent.name, path.name)

    return ByFolder(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long series of attacks run only on request: `make chaos`."""
    if "chaos" in config.getoption("markexpr"):
        return
    long = [item for item in items if item.get_closest_marker("chaos")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
