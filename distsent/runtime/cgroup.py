"""The container's limits, and what it used: cgroup v2, or v1 where there is no v2."""

from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


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


def memory_use() -> str:
    """The container's memory limit and peak, as words of a message."""
    limit = read("memory.max") or read("memory/memory.limit_in_bytes")
    peak = read("memory.peak") or read("memory/memory.max_usage_in_bytes")
    return f"limit {size(limit)}, peak {size(peak)}"


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
