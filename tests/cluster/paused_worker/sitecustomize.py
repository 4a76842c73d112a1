"""Workers that wait before a step (see ../hold.py). Python imports this from PYTHONPATH.

Before step N every worker waits as long as the file HOLD holds a number up to N. A worker that is
asked to stop while it waits creates HOLD.heard, and continues to wait.
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
    """Wait in `BatchPlan.batch`: workers call it before they exchange stop requests."""
    batch = module.BatchPlan.batch

    def batch_when_free(plan: Any, step: int) -> Any:
        wait(step)
        return batch(plan, step)

    module.BatchPlan.batch = batch_when_free


def change_stop(module: ModuleType) -> None:
    init = module.StopSignal.__init__

    def init_and_register(stop: Any, *options: Any) -> None:
        init(stop, *options)
        stops.append(stop)

    module.StopSignal.__init__ = init_and_register


class Finder(MetaPathFinder):
    """Imports some modules as usual, then changes them."""

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
