"""Peak memory of a run: of its GPU if there is one, else of the process."""

import resource
from contextlib import suppress
from pathlib import Path

import torch

OWN = Path("/proc/self")


def reset_peak() -> None:
    """Start measuring: several runs may share a process."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        (OWN / "clear_refs").write_text("5")  # "reset the peak resident set size" (proc(5))


def peak() -> int:
    """Bytes, since `reset_peak`."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError, IndexError):
        return 1024 * int((OWN / "status").read_text().partition("VmHWM:")[2].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
