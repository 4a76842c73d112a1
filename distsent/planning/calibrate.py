"""A calibration: starts workers as in a training, as many at once as share a machine."""

from __future__ import annotations

import json
import math
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from distsent.distributed.launchers import HOROVOD, TORCH, TRANSPORT
from distsent.errors import FAILED, UserError
from distsent.job.job import Job
from distsent.planning.hardware import NETWORK, Description, Hardware
from distsent.planning.link import RING, TREE, Exchange, Link, fit_link
from distsent.planning.speed import Share, SharedTimes, fit_speed
from distsent.planning.worker import Order
from distsent.runtime.cgroup import cpu_quota
from distsent.runtime.local_start import local_command
from distsent.runtime.run_folder import read_json, write_text
from distsent.runtime.signals import StopSignal

SECONDS = 24.0  # of measurements, over all numbers of workers: the starts take as long again
PATIENCE = 600.0


@dataclass(frozen=True)
class Calibration:
    """What `count` workers measured, all on this machine at once."""

    count: int
    shares: tuple[Share, ...]
    exchanges: tuple[Exchange, ...]
    shared: SharedTimes | None  # None: they do not share their weights
    threads: int
    device: str
    transport: str
    peak_memory: int


def local_workers() -> int:
    """Workers that this machine is for: one on each GPU, else one on each core."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cores = len(os.sched_getaffinity(0))
    return gpus or max(1, min(cores, cpu_quota() or cores))


def calibrate(
    job: Job, sizes: Mapping[int, Sequence[int]], messages: Sequence[float], stop: StopSignal
) -> list[Calibration]:
    """Measure with each number of workers at once: `sizes` has the worker counts of its shares.

    Raises UserError before the first of them if there is no launcher for the last.
    """
    worker_command([], max(sizes), job.run.transport)
    each = SECONDS / len(sizes)
    return [
        run_workers(Order(job.to_dict(), list(shares), list(messages), each, ""), count, stop)
        for count, shares in sizes.items()
    ]


def run_workers(order: Order, count: int, stop: StopSignal) -> Calibration:
    """Raises UserError with a line of the workers that failed, Stopped on request."""
    with tempfile.TemporaryDirectory() as folder:
        out, written, log = (Path(folder) / name for name in ("out.json", "order.json", "log"))
        write_text(written, json.dumps({**asdict(order), "out": str(out)}))
        words = ["-m", "distsent.planning.worker", str(written)]
        command = worker_command(words, count, order.job["run"]["transport"])
        with open(log, "wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
            try:
                await_end(process, stop)
            finally:
                process.terminate()
                process.wait()
        found: dict[str, Any] | None = read_json(out)
        if process.returncode or found is None:
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["no output"]
            said = next((line for line in lines if "distsent: " in line), lines[-1])
            raise UserError(f"calibration with {count} workers failed: {said[:200]}", code=FAILED)
    return Calibration(
        count,
        tuple(Share(**share) for share in found["shares"]),
        tuple(Exchange(**exchange) for exchange in found["exchanges"]),
        found["shared"] and SharedTimes(**found["shared"]),
        found["threads"],
        found["device"],
        found["transport"],
        found["peak_memory_bytes"],
    )


def worker_command(words: Sequence[str], count: int, transport: str) -> list[str]:
    """The command that runs `python WORDS` as `count` workers, over Horovod only if asked."""
    asked = os.environ.get(TRANSPORT) or transport
    return local_command(words, count, HOROVOD if asked == HOROVOD and count > 1 else TORCH)


def await_end(process: subprocess.Popen[bytes], stop: StopSignal) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None:
        stop.raise_if_requested()
        if time.monotonic() > deadline:
            raise UserError(f"calibration: no answer within {PATIENCE:.0f} s", code=FAILED)
        time.sleep(0.05)


def shares_to_run(asked: Sequence[int], local: int, batch_size: int) -> dict[int, list[int]]:
    """Worker counts whose shares are run, by the number of workers that run them at once."""
    shares = {}
    for count in sorted({local, *(min(each, local) for each in (1, *asked))}):
        own = {each for each in asked if min(each, local) == count and each <= batch_size}
        spread = [count * 4**i for i in range(8) if count * 4**i <= batch_size]
        shares[count] = sorted({*own, *spread, count})
    return shares


def measured_hardware(found: Sequence[Calibration], described: Description | None) -> Hardware:
    """Machines like this one, connected as described."""
    last = found[-1]
    algorithm = RING if "Gloo" in last.transport else TREE  # NCCL and MPI choose by size
    links = {each.count: fit_link(each.exchanges, algorithm) for each in found if each.exchanges}
    values: Mapping[str, Any] = described.values if described else {}
    threads = ", ".join(f"{each.count} x {each.threads} threads" for each in found)
    network = f"as {described.origin} describes" if described else "10 Gbit/s assumed (--hardware)"
    sharing = ", one copy of the weights" if last.shared else ""
    notes = (
        f"measured here: workers {threads} on {last.device}, transport {last.transport}{sharing}",
        f"between machines: {network}",
    )
    return Hardware(
        name="machines like this one",
        speeds={each.count: fit_speed(each.shares) for each in found},
        links=links or {1: Link(0.0, math.inf)},
        shared={each.count: each.shared for each in found if each.shared is not None},
        workers_per_machine=last.count,
        between=described.between if described else NETWORK,
        gpu=torch.cuda.is_available(),
        measured=True,
        memory=values.get("memory"),
        price=values.get("price"),
        notes=notes,
    )
