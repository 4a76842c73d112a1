"""This machine's cores and GPUs, shared out among the trials that train at once."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from distsent.runtime.cgroup import cpu_quota

COUNT = "import torch; print(torch.cuda.device_count())"


@dataclass(frozen=True)
class Slot:
    """What one trial trains on. `threads`: of each worker. `gpus`: None if there are none."""

    cores: tuple[int, ...]
    threads: int
    gpus: tuple[str, ...] | None

    def variables(self) -> dict[str, str]:
        """Of the environment of the trial; the user's own OMP_NUM_THREADS stays."""
        found = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(self.threads)}
        return found if self.gpus is None else found | {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)}


def share(
    count: int, workers: int, cores: Sequence[int], quota: int, gpus: Sequence[str]
) -> list[Slot]:
    """The slots of `count` trials at once, with `workers` each. No core or GPU is in two of them,
    unless there are fewer of them than trials."""
    slots = []
    for i in range(count):
        own = _part(cores, i, count)
        threads = max(1, min(len(own), quota * len(own) // len(cores)) // workers)
        slots.append(Slot(tuple(own), threads, tuple(_part(gpus, i, count)) if gpus else None))
    return slots


def _part(things: Sequence, i: int, count: int) -> Sequence:
    if len(things) < count:
        return [things[i % len(things)]]
    return things[i * len(things) // count : (i + 1) * len(things) // count]


def share_machine(count: int, workers: int) -> tuple[list[Slot], list[str]]:
    """The slots of this machine, and a line for each thing that there is too little of."""
    cores, gpus = sorted(os.sched_getaffinity(0)), visible_gpus()
    quota = min(cpu_quota() or len(cores), len(cores))
    needed, notes = count * workers, []
    if gpus and len(gpus) < needed:
        notes.append(f"{needed} workers at once share {len(gpus)} GPUs")
    if not gpus and quota < needed:
        notes.append(f"{needed} workers at once share {quota} cores")
    return share(count, workers, cores, quota, gpus), notes


def visible_gpus(env: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    if (named := env.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    if not any(devices.glob("nvidia[0-9]*")) and not (devices / "kfd").exists():
        return []
    # A process of its own: torch takes hundreds of megabytes.
    counted = subprocess.run([sys.executable, "-c", COUNT], stdout=subprocess.PIPE, text=True)
    return [str(i) for i in range(int(counted.stdout or 0))]
