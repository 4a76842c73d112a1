"""A worker's first process: sshd, through which mpirun starts the ranks.

Kubernetes sends SIGTERM to this process alone, and when it ends, the kernel kills the rest of the
pod. So it asks the ranks to save, and keeps sshd until they have left.
"""

import os
import signal
import subprocess
import time
from contextlib import suppress

import psutil

from distsent.distributed.launchers import RANK
from distsent.errors import FINISHED
from distsent.pods.hosts import MEMORY_NOTE
from distsent.pods.launch import check_user
from distsent.runtime.cgroup import LESS_MEMORY, memory_use, out_of_memory_kills

SSHD_CONFIG = "/home/mpiuser/.sshd_config"


def serve(config: str = SSHD_CONFIG, grace: float = 150.0, left: int = FINISHED) -> int:
    """Run until sshd ends (its exit code), or a signal (`left`, after the ranks have saved)."""
    check_user()
    signals: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: signals.append(number))
    server = subprocess.Popen(["/usr/sbin/sshd", "-D", "-e", "-f", config])
    MEMORY_NOTE.unlink(missing_ok=True)
    kills = out_of_memory_kills()
    while server.poll() is None and not signals:
        reap_zombies(server.pid)
        kills = note_kills(kills)
        time.sleep(0.2)
    if server.poll() is not None:
        print(f"distsent: sshd ended with {server.returncode}", flush=True)
        return server.returncode or 1
    request_save(grace)
    server.terminate()
    server.wait()
    return left


def note_kills(before: int) -> int:
    """Leave a note for the launcher if more processes were killed at the memory limit."""
    kills = out_of_memory_kills()
    if kills > before:
        line = f"out of memory: {kills - before} processes killed ({memory_use()}); {LESS_MEMORY}"
        print(f"distsent: {line}", flush=True)
        with suppress(OSError):
            MEMORY_NOTE.write_text(f"{line}\n")
    return kills


def request_save(grace: float) -> None:
    """Ask this pod's ranks to save, and wait until they have left or `grace` is over."""
    end, ranks = time.monotonic() + grace, rank_pids()
    if not ranks:
        return
    print(f"distsent: asking {len(ranks)} ranks of this pod to save", flush=True)
    for pid in ranks:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)
    while ranks and time.monotonic() < end:
        reap_zombies()
        time.sleep(0.2)
        ranks = rank_pids()
    result = f"{len(ranks)} ranks still run" if ranks else "the ranks have left"
    print(f"distsent: {result}", flush=True)


def rank_pids(first: int | None = None) -> list[int]:
    """The ranks among the descendants of process `first` (this one), without their own children.

    The first process of a pod inherits all orphans. Elsewhere, other jobs' ranks are no children.
    """
    below = {child.pid for child in psutil.Process(first).children(recursive=True)}
    # Children of a rank inherit its environment.
    infos = [each.info for each in psutil.process_iter(["pid", "ppid", "environ", "status"])]
    own = [info for info in infos if info["pid"] in below]
    alive = [info for info in own if info["status"] != psutil.STATUS_ZOMBIE]
    ranks = [info for info in alive if not set(RANK).isdisjoint(info["environ"] or ())]
    parents = {info["pid"]: info["ppid"] for info in ranks}
    return sorted(pid for pid, parent in parents.items() if parent not in parents)


def reap_zombies(*keep: int) -> None:
    """Collect ended children: the first process of a pod inherits all orphans."""
    with suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid in keep:
                return
            os.waitpid(found.si_pid, 0)
