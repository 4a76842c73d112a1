"""Training that waits: Python imports this at its start where PYTHONPATH names this folder (see ../hold.py).

Before step N every worker waits as long as the file HOLD holds a number up to N. A worker that is asked to stop while it
waits says so in HOLD.heard, and goes on waiting.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from importlib import util
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

HOLD = Path(os.environ.get("DISTSENT_TEST_HOLD", "/nonexistent"))
PLAN = "distsent.training.plan"  # every worker asks it for every batch, before it looks whether it was asked to stop


def wait(step: int) -> None:
    while held(step):
        stop = getattr(signal.getsignal(signal.SIGUSR1), "__self__", None)
        if stop is not None and stop.requested is not None:
            HOLD.with_suffix(".heard").touch()
        time.sleep(0.02)


def held(step: int) -> bool:
    try:
        return step >= int(HOLD.read_text())
    except OSError:
        return False


class Finder(MetaPathFinder):
    """Lets the import of the plan happen as it would, then puts the wait in front of its batches."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != PLAN:
            return None
        sys.meta_path.remove(self)
        spec = util.find_spec(name)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def run_and_change(module: ModuleType) -> None:
            run(module)
            batch = module.Plan.batch

            def batch_when_free(plan: Any, step: int) -> Any:
                wait(step)
                return batch(plan, step)

            module.Plan.batch = batch_when_free

        spec.loader.exec_module = run_and_change  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, Finder())
