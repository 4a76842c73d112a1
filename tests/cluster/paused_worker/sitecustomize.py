"""Training that waits: Python imports this at its start where PYTHONPATH names this folder (see ../hold.py).

Before step N every worker waits as long as the file HOLD holds a number up to N. A worker that is asked to stop while it
waits says so in HOLD.heard, and goes on waiting.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from importlib import util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

HOLD = Path(os.environ.get("DISTSENT_TEST_HOLD", "/nonexistent"))
stops: list[Any] = []  # the process's distsent.runtime.signals.StopSignal


def wait(step: int) -> None:
    while held(step):
        if any(stop.requested is not None for stop in stops):
            HOLD.with_suffix(".heard").touch()
        time.sleep(0.02)


def held(step: int) -> bool:
    try:
        return step >= int(HOLD.read_text())
    except OSError:
        return False


def change_plan(module: ModuleType) -> None:
    """Every worker asks the plan for every batch, before it tells the others that it was asked to stop."""
    batch = module.BatchPlan.batch

    def batch_when_free(plan: Any, step: int) -> Any:
        wait(step)
        return batch(plan, step)

    module.BatchPlan.batch = batch_when_free


def change_stop(module: ModuleType) -> None:
    begin = module.StopSignal.__init__

    def begin_and_tell(stop: Any) -> None:
        begin(stop)
        stops.append(stop)

    module.StopSignal.__init__ = begin_and_tell


class Finder(MetaPathFinder):
    """Lets the import of some modules happen as it would, then changes them."""

    changes: ClassVar[dict[str, Callable[[ModuleType], None]]] = {
        "distsent.batching.batch_plan": change_plan, "distsent.runtime.signals": change_stop,
    }  # fmt: skip

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self.changes:
            return None
        change = self.changes.pop(name)
        spec = util.find_spec(name)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            change(module)

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
