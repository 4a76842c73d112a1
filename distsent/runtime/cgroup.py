"""The container's CPU quota (cgroup v2)."""

from pathlib import Path

CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # "<quota> <period>" in microseconds, or "max <period>"


def cpu_quota() -> int | None:
    """Cores' worth of CPU time that the container may use, at least 1; None without a limit."""
    try:
        quota, period = CPU_MAX.read_text().split()
        return None if quota == "max" else max(1, round(int(quota) / int(period)))
    except (OSError, ValueError):
        return None
