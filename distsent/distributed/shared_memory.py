"""Memory that the workers of one machine share. Who may write when is up to the caller.

Each worker creates a part of it without a name (`man 2 memfd_create`): nothing is left behind,
however a worker ends, and the size of /dev/shm, 64 MB in most containers, is no limit. The others
open it through /proc. That needs one user and one namespace of processes.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import torch

from distsent.distributed.network import machine
from distsent.distributed.world import World

TOKEN = 16  # bytes, of each worker's own, at the beginning
START = mmap.PAGESIZE  # where the numbers begin
PAGE = mmap.PAGESIZE // 4  # numbers


class NotShared(Exception):
    """Why the workers cannot share memory."""


def share_memory(world: World, count: int) -> list[torch.Tensor]:
    """`count` zeros of this worker, and those of the others, which may have other counts.

    Returns a float32 tensor per rank. All workers call this, and all write to the same memory.
    Raises NotShared on all of them, with the first one's reason.
    """
    made, reason, opened = -1, "", []
    size, token = START + 4 * count, os.urandom(TOKEN)
    try:
        made = create(size, token)
    except (OSError, AttributeError) as error:  # AttributeError: not on Linux
        reason = f"memory cannot be created: {error}"
    try:
        check_all(world, reason)
        offer = machine(), os.getpid(), made, size, token.hex()
        for other in world.allgather_object(offer, "memory.offers"):
            try:
                opened.append(open_memory(*other))
            except OSError as error:
                reason = f"the memory of another worker cannot be opened: {error}"
                break
        check_all(world, reason)  # and nobody closes its memory before all have opened it
    finally:
        if made >= 0:
            os.close(made)
    return opened


def check_all(world: World, reason: str) -> None:
    """Raises NotShared on all workers if one has a reason."""
    for rank, found in enumerate(world.allgather_object(reason, "memory.problems")):
        if found:
            raise NotShared(f"{found} (rank {rank})")


def create(size: int, token: bytes) -> int:
    """The file descriptor of new memory. Raises OSError, or AttributeError where there is none."""
    made = os.memfd_create("distsent")
    try:
        os.truncate(made, size)
        if is_memory_counted():
            os.posix_fallocate(made, 0, size)
        os.pwrite(made, token, 0)
    except OSError:
        os.close(made)
        raise
    return made


def is_memory_counted() -> bool:
    """Whether Linux grants no more memory than there is (vm.overcommit_memory=2).

    There it would end a worker with SIGBUS at the first number that finds no memory.
    """
    try:
        return Path("/proc/sys/vm/overcommit_memory").read_text(encoding="ascii").strip() == "2"
    except OSError:
        return False


def open_memory(where: str, pid: int, made: int, size: int, token: str) -> torch.Tensor:
    """The numbers in the memory that process `pid` created, on the machine `where`.

    Raises OSError if it is another process. In another namespace, the number is another process's,
    and its file may be a device that does something when it is opened.
    """
    if where != machine():
        raise OSError("it runs in another container (PID or network namespace)")
    file = os.open(f"/proc/{pid}/fd/{made}", os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        # The worker may have ended since, and its number may be another process's now.
        if os.pread(file, TOKEN, 0) != bytes.fromhex(token):
            raise OSError(f"process {pid} is not that worker")
        mapped = mmap.mmap(file, size)
    finally:
        os.close(file)
    return torch.frombuffer(mapped, dtype=torch.float32, offset=START)
