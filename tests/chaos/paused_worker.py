"""The training door, which waits at a place of a run until it is let go:  python -m tests.chaos.paused_worker [section.key=value ...]

HOLD names the place, and which visit of it counts: `saving:2`. Each worker that gets there leaves a file `<place>.<rank>` in the
folder HOLD_AT and waits until that folder holds `go`. A worker that hears of another's wish to stop leaves `asked.<rank>`. PAUSE
seconds are slept before every step, so that a run lasts.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distsent import cli, train

PLACES = {  # place: the module and the function whose call is the visit
    "tokenising": ("distsent.data.token_store", "write_part"),
    "first_step": ("distsent.training.train_step", "TrainStep.__call__"),
    "training": ("distsent.training.train_step", "TrainStep.__call__"),
    "evaluating": ("distsent.evaluation.evaluate_split", "score_batches"),
    "saving": ("distsent.runtime.checkpoint", "save"),
    "import": ("torch", ""),
}
PATIENCE = 100.0  # seconds: a test that died lets nobody wait for ever


def mark(place: str) -> Path:
    """Say that this worker is here; the folder that says so."""
    folder = Path(os.environ["HOLD_AT"])
    rank = next((os.environ[name] for name in cli.RANKS if name in os.environ), "0")
    (folder / f"{place}.{rank}").touch()
    return folder


def hold(place: str) -> None:
    """Say that this worker is here, and wait."""
    go, until = mark(place) / "go", time.monotonic() + PATIENCE
    while not go.exists() and time.monotonic() < until:
        time.sleep(0.02)


def before(module: str, name: str, act: Callable[[], None]) -> None:
    """Let `act` run before every call of a function."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, last)

    def first(*args: Any, **kwargs: Any) -> Any:
        act()
        return real(*args, **kwargs)

    setattr(owner, last, first)


class Arrival:
    """Finds no module, but hears of the first look for torch: the imports that take long begin there."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "torch":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            hold("import")


def main(arguments: list[str]) -> int:
    place, _, visit = os.environ.get("HOLD", "").partition(":")
    pause, visits = float(os.environ.get("PAUSE", "0")), 0

    def act() -> None:
        nonlocal visits
        visits += 1
        if visits == int(visit):
            hold(place)

    before("distsent.runtime.signals", "StopSignal.ask", lambda: mark("asked"))
    if place == "import":
        sys.meta_path.insert(0, Arrival())  # type: ignore[arg-type]
        return train.main(arguments)
    if pause:
        before(*PLACES["training"], lambda: time.sleep(pause))
    if place:
        before(*PLACES[place], act)
    return train.main(arguments)


if __name__ == "__main__":
    cli.run(main)
