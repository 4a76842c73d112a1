"""distsent.train, paused at a place of a run:  python -m tests.chaos.paused_worker [key=value ...]

PAUSE_AT names the place and the number of the visit: `saving:2`. Each worker that gets there writes
a file `<place>.<rank>` into the folder PAUSE_FOLDER and waits until that folder contains `go`. A
worker that receives a stop request writes `stop_requested.<rank>`. STEP_DELAY seconds are slept
before every step, to make a run last. PAUSE_RANK: this worker alone. At the place `skip` nobody
waits: the worker leaves out the collective of a save. NO_LOCKS makes the file system one without
locks, where an owner of a run folder that is silent for so many seconds is gone.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distsent import cli, train
from distsent.distributed.launchers import RANK, TORCHRUN

PLACES = {  # place: the module and the function whose calls are its visits
    "tokenizing": ("distsent.data.tokens.store", "write_part"),
    "first_step": ("distsent.training.train_step", "TrainStep.__call__"),
    "training": ("distsent.training.train_step", "TrainStep.__call__"),
    "forward": ("distsent.training.train_step", "TrainStep._backward"),
    "reduce": ("distsent.training.shared_reducer", "SharedReducer.reduce"),
    "updating": ("distsent.training.train_step", "TrainStep._clip"),
    "rendezvous": ("distsent.train", "init_world"),
    "joining": ("distsent.runtime.heartbeat.client", "Client._find_main_worker"),
    "evaluating": ("distsent.evaluation.evaluate_split", "batches_of_rank"),
    "saving": ("distsent.runtime.checkpoint", "save"),
    "writing": ("distsent.runtime.safetensors_buffer", "SafetensorsBuffer.digest"),  # in a save
    "import": ("torch", ""),
}
LIMIT = 1500.0  # seconds: the pause ends even if the test has died


def mark(place: str) -> Path:
    """Write this worker's mark for `place`; returns the folder of marks."""
    folder = Path(os.environ["PAUSE_FOLDER"])
    (folder / f"{place}.{rank()}").touch()
    return folder


def rank() -> str:
    return next((os.environ[name] for name in (*RANK, TORCHRUN[0]) if name in os.environ), "0")


def pause(place: str) -> None:
    """Write this worker's mark and wait for `go`."""
    go, until = mark(place) / "go", time.monotonic() + LIMIT
    while not go.exists() and time.monotonic() < until:
        time.sleep(0.02)


def before(module: str, name: str, act: Callable[[], object]) -> None:
    """Run `act` before every call of a function."""
    owner: Any = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    real = getattr(owner, last)

    def act_first(*args: Any, **kwargs: Any) -> Any:
        act()
        return real(*args, **kwargs)

    setattr(owner, last, act_first)


def leave_out(module: str, name: str) -> None:
    """Make a function do nothing."""
    setattr(importlib.import_module(module), name, lambda *args: None)


def forget_locks(silent: float) -> None:
    from distsent import lock
    from distsent.runtime import ownership

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    lock.fcntl.flock = refuse
    ownership.SILENT, ownership.RENEWED = silent, silent / 8


class PauseAtTorch:
    """An import hook that finds no module, but pauses at the first search for torch."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "torch":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            pause("import")


def main(arguments: list[str]) -> int:
    place, _, number = os.environ.get("PAUSE_AT", "").partition(":")
    delay, visits = float(os.environ.get("STEP_DELAY", "0")), 0

    def visit() -> None:
        nonlocal visits
        visits += 1
        if visits == int(number):
            pause(place)

    if os.environ.get("PAUSE_RANK", rank()) != rank():
        place = ""
    before("distsent.runtime.signals", "StopSignal.request", lambda: mark("stop_requested"))
    if os.environ.get("NO_LOCKS"):
        forget_locks(float(os.environ["NO_LOCKS"]))
    if place == "import":
        sys.meta_path.insert(0, PauseAtTorch())  # type: ignore[arg-type]
        return train.main(arguments)
    if delay:
        before(*PLACES["training"], lambda: time.sleep(delay))
    if place == "skip":
        leave_out("distsent.training.replica_check", "check_replicas")
    elif place:
        before(*PLACES[place], visit)
    return train.main(arguments)


if __name__ == "__main__":
    cli.run(main)
