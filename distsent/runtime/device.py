"""What a worker computes on: its device, its share of the cores, its precision."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distsent.distributed.world import World


def device(local_rank: int) -> torch.device:
    """One GPU a worker where there are GPUs, whether the launcher shows a worker all of them or its own alone."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    chosen = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(chosen)
    # The same bits every time: sums in a fixed order, where torch has them. cuBLAS reads its part at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs a pass over new memory
    return chosen


def quota() -> int:
    """Cores' worth of time that the container may use; those of the machine where nothing is said."""
    total = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            most, period = file.read().split()
        return total if most == "max" else max(1, round(int(most) / int(period)))
    except (OSError, ValueError):
        return total


def share_cores(world: World) -> int:
    """Set torch's threads to this worker's share of the cores, unless OMP_NUM_THREADS says otherwise. Returns the threads.

    Cores that workers of one host may all run on are shared by them; those that a launcher bound a worker to are its own.
    """
    host, own = socket.gethostname(), sorted(os.sched_getaffinity(0))
    everybody = world.allgather_object((host, own), "device.cores")
    neighbours = [set(theirs) for place, theirs in everybody if place == host]
    said = os.environ.get("OMP_NUM_THREADS", "")
    threads = (
        int(said) if said.isdigit() and int(said) > 0 else share(set(own), neighbours, quota())
    )
    torch.set_num_threads(threads)
    return threads


def share(own: set[int], neighbours: Sequence[set[int]], quota: int) -> int:
    """Threads of a worker that may run on the cores `own`, among its host's `neighbours`, itself one of them."""
    rivals = sum(bool(own & theirs) for theirs in neighbours)
    return max(1, min(len(own) // rivals, quota // len(neighbours)))


def resolve_precision(asked: str, chosen: torch.device) -> tuple[str, str | None]:
    """The precision to compute in, and a line for the log where it is not the one asked for."""
    if asked == "fp16" and chosen.type == "cpu":
        best = faster_precision(chosen)
        return (
            best,
            f"train.precision = fp16 needs a GPU: this run computes in {best}, the faster one of float32 and bf16 here",
        )
    if asked == "auto":
        best = faster_precision(chosen)
        return best, f"train.precision = auto: {best} is the faster one here"
    return asked, None


def pinned_precision(asked: str, begun: Mapping[str, Any]) -> str:
    """The precision that a run was begun in, by its job.json, where the same was asked for then."""
    before = begun.get("job", {}).get("train", {}).get("precision")
    return (
        str(begun.get("precision") or asked)
        if asked in ("auto", "fp16") and before == asked
        else asked
    )


def faster_precision(chosen: torch.device) -> str:
    """Times one matrix product of an encoder's size in float32 and bf16; half width must win clearly to be chosen."""
    if chosen.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    seconds = {dtype: matmul_seconds(dtype, chosen) for dtype in (torch.float32, torch.bfloat16)}
    return "bf16" if seconds[torch.bfloat16] < 0.8 * seconds[torch.float32] else "float32"


def matmul_seconds(
    dtype: torch.dtype, chosen: torch.device, rows: int = 1024, width: int = 768, tries: int = 5
) -> float:
    """The best of a few timings of [rows, width] x [width, 4 width], on this worker's threads or its GPU."""
    import time

    a, b = (
        torch.randn(rows, width, dtype=dtype, device=chosen),
        torch.randn(4 * width, width, dtype=dtype, device=chosen),
    )
    best = float("inf")
    for _ in range(tries):
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        if chosen.type == "cuda":
            torch.cuda.synchronize(chosen)
        best = min(best, time.perf_counter() - start)
    return best


def peak_flops(precision: str, chosen: torch.device) -> float:
    """Measured operations per second of this worker's matrix products: the roof that utilisation is held against."""
    dtype = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    rows = 1024 if chosen.type == "cpu" else 16384  # what keeps all of it busy
    return 2 * rows * 768 * 4 * 768 / matmul_seconds(dtype, chosen, rows)
