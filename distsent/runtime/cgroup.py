"""The container's limits, and what it used: cgroup v2, or v1 where there is no v2."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
LESS_MEMORY = (
    "more memory for the workers, a smaller train.token_budget, train.recompute=true or "
    "adapter.kind=lora"
)


def cpu_quota() -> int | None:
    """Cores' worth of CPU time that the container may use, at least 1; None without a limit."""
    v1 = f"{read('cpu/cpu.cfs_quota_us')} {read('cpu/cpu.cfs_period_us')}"
    try:  # "<quota> <period>" in microseconds; quota is max (v2) or -1 (v1) without a limit
        quota, period = (read("cpu.max") or v1).split()
        return None if quota in ("max", "-1") else max(1, round(int(quota) / int(period)))
    except (ValueError, ZeroDivisionError):
        return None


def out_of_memory_kills() -> int:
    """Processes of the container that were killed at its memory limit."""
    counters = read("memory.events") or read("memory/memory.oom_control")
    words = [line.split() for line in counters.splitlines()]
    return sum(int(line[1]) for line in words if line[:1] == ["oom_kill"])


def machine_kills() -> int:
    """Processes that the kernel killed on this machine for lack of memory, in any container."""
    try:
        counters = Path("/proc/vmstat").read_text()
    except OSError:
        return 0
    return int(counters.partition("\noom_kill ")[2].split("\n")[0] or 0)


def killed_for_memory(before: tuple[int, int]) -> str | None:
    """A line if the kernel has killed processes for lack of memory since `kills()` were `before`.

    The counters of the machine also count those of other users.
    """
    own, all_ = (now - then for now, then in zip(kills(), before, strict=True))
    if own > 0:
        return f"out of memory: {own} processes killed ({memory_use()}); {LESS_MEMORY}"
    if all_ > 0:
        what = f"the kernel killed {all_} processes of this machine for lack of memory meanwhile"
        return f"out of memory, it seems: {what}; {LESS_MEMORY}"
    return None


def kills() -> tuple[int, int]:
    """Processes killed for lack of memory so far: of the container, and of the machine."""
    return out_of_memory_kills(), machine_kills()


def memory_use() -> str:
    """The container's memory limit and peak, as words of a message."""
    limit = read("memory.max") or read("memory/memory.limit_in_bytes")
    peak = read("memory.peak") or read("memory/memory.max_usage_in_bytes")
    return f"limit {size(limit)}, peak {size(peak)}"


def memory_left() -> int | None:
    """Bytes that the container may still use; None without a limit, or where it is not known."""
    limit = read("memory.max") or read("memory/memory.limit_in_bytes")
    used = read("memory.current") or read("memory/memory.usage_in_bytes")
    if not (limit.isdigit() and used.isdigit()) or int(limit) >> 60:
        return None
    return int(limit) - int(used)


def size(number: str) -> str:
    if not number.isdigit():  # v2 says max
        return "none" if number == "max" else "?"
    return "none" if int(number) >> 60 else f"{int(number) / 2**30:.1f} GiB"


def read(name: str) -> str:
    """A file of the cgroup; empty where there is none."""
    try:
        return (ROOT / name).read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
