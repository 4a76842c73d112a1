"""A worker's device, its share of the cores, and its precision."""

import os
import socket
import timeit
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from distsent.distributed.world import World
from distsent.operators.linear import onednn_is_faster, product
from distsent.runtime.cgroup import cpu_quota

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALF = ("bf16", "fp16")
WIDTH = 768  # of the timed matrix products: a base encoder's hidden size


def select_device(local_rank: int) -> torch.device:
    """One GPU per worker if there are any, whether the launcher exposes all of them or one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    # Bit-reproducible sums where torch has them. cuBLAS reads this variable at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)  # training is stricter
    # Filling costs a pass over each new allocation.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return device


def arithmetic(device: torch.device) -> str:
    """What decides the last bits of a sum: devices of other kinds may round it otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    library = ", float32 by oneDNN" if onednn_is_faster() else ""
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}{library}"


def share_cores(world: World) -> int:
    """Set torch's threads to this worker's share of its host's cores, and return their number.

    OMP_NUM_THREADS overrides it. Workers do not share cores that a launcher bound to one of them.
    """
    host, own = socket.gethostname(), sorted(os.sched_getaffinity(0))
    workers = world.allgather_object((host, own), "device.cores")
    neighbors = [set(cores) for name, cores in workers if name == host]
    quota = cpu_quota() or os.cpu_count() or 1
    override = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(override) if override.isdigit() else 0
    torch.set_num_threads(threads or threads_per_worker(set(own), neighbors, quota))
    return torch.get_num_threads()


def threads_per_worker(own: set[int], neighbors: Sequence[set[int]], quota: int) -> int:
    """Threads of a worker on the cores `own`. `neighbors`: those of each worker on its host."""
    sharing = sum(bool(own & cores) for cores in neighbors)
    return max(1, min(len(own) // sharing, quota // len(neighbors)))


def resolve_precision(requested: str, device: torch.device) -> tuple[str, str | None]:
    """The precision to compute in, and a line for the log if it differs from the requested one."""
    no_gpu = requested == "fp16" and device.type == "cpu"
    if requested != "auto" and not no_gpu:
        return requested, None
    best, why = faster_precision(device), "fp16 needs a GPU" if no_gpu else "auto"
    return best, f"train.precision = {why}: this run uses {best}, which is faster on this machine"


def slow_precision(precision: str, device: torch.device) -> str | None:
    """A line for the log if torch has only its slowest products for this precision."""
    if precision != "bf16" or device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return None
    return (
        'train.precision = "bf16": this CPU has no AVX-512, so products in bf16 take many times as '
        'long as in float32; set it to "auto" or "float32"'
    )


def pinned_precision(requested: str, started: Mapping[str, Any]) -> str:
    """The precision in the `job.json` of the run's first start, if that start requested the same.

    A measured choice ("auto", or fp16 without a GPU) must not change when the run resumes.
    """
    before = started.get("job", {}).get("train", {}).get("precision")
    if requested in ("auto", "fp16") and before == requested:
        return str(started.get("precision") or requested)
    return requested


def faster_precision(device: torch.device) -> str:
    """On a CPU, time one matrix product in both; bf16 must take less than 0.8 of the time."""
    if device.type == "cuda":
        # Older GPUs (V100, T4) only emulate it, many times slower than fp16.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    full, half = (matmul_seconds(dtype, device) for dtype in (torch.float32, torch.bfloat16))
    return "bf16" if half < 0.8 * full else "float32"


def matmul_seconds(dtype: torch.dtype, device: torch.device, rows: int = 1024) -> float:
    """The best of five timings of [rows, 768] x [768, 3072]."""
    a = torch.randn(rows, WIDTH, dtype=dtype, device=device)
    b = torch.randn(4 * WIDTH, WIDTH, dtype=dtype, device=device)

    onednn = dtype == torch.float32 and device.type == "cpu" and onednn_is_faster()
    multiply_once = product if onednn else torch.nn.functional.linear

    def multiply() -> None:
        multiply_once(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return min(timeit.repeat(multiply, number=1, repeat=5))


def peak_flops(precision: str, device: torch.device) -> float:
    """Measured matmul FLOP/s of this worker: the peak that MFU is relative to."""
    rows = 1024 if device.type == "cpu" else 16384  # enough to keep the device busy
    return 2 * rows * WIDTH * 4 * WIDTH / matmul_seconds(DTYPES[precision], device, rows)
