"""A worker's first process: sshd, through which mpirun starts the ranks.

Kubernetes sends SIGTERM to this process alone, and when it ends, the kernel kills the rest of the pod. So the word is
passed on to the ranks, and sshd stays until they have saved and left.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from types import FrameType

from distsent.errors import FINISHED
from distsent.k8s.hosts import check_user
from distsent.k8s.processes import processes

SSHD = "/home/mpiuser/.sshd_config"
RANK = (b"OMPI_COMM_WORLD_RANK=", b"HOROVOD_RANK=")


def serve(config: str = SSHD, grace: float = 150.0) -> int:
    """Run until sshd ends (its exit code), or until told to leave (0, when the ranks have saved or `grace` is over)."""
    check_user()
    asked = Asked()
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config])
    while server.poll() is None and not asked.leave:
        bury(server.pid)
        time.sleep(0.2)
    if server.poll() is not None:
        print(f"distsent: sshd ended with {server.returncode}", flush=True)
        return server.returncode or 1
    say_save(grace)
    server.terminate()
    server.wait()
    return FINISHED


class Asked:
    """Whether this pod was asked to leave."""

    def __init__(self) -> None:
        self.leave = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.leave = True


def say_save(grace: float) -> None:
    """Ask this pod's ranks to save, and wait until they have left."""
    end = time.monotonic() + grace
    left = ranks()
    if left:
        print(f"distsent: asking {len(left)} ranks of this pod to save", flush=True)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    while ranks() and time.monotonic() < end:
        bury()
        time.sleep(0.2)
    if left:
        print(
            "distsent: they have left"
            if not ranks()
            else f"distsent: they are still here after {grace:.0f} s",
            flush=True,
        )


def ranks() -> list[int]:
    """The processes of this pod that a launcher started as ranks: not their children, which inherit the environment."""
    marked = {
        one.pid: one.parent
        for one in processes()
        if any(value.startswith(RANK) for value in one.environment)
    }
    return sorted(pid for pid, parent in marked.items() if parent not in marked)


def bury(*but: int) -> None:
    """Collect children that ended: as the first process of the pod this one inherits all orphans."""
    with contextlib.suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid in but:
                return
            os.waitpid(found.si_pid, 0)
