"""The TCP connections of this process, to end those of a transport that has no way to do it."""

import os
import socket
from collections.abc import Iterable
from contextlib import suppress

Connection = tuple[int, int]  # file descriptor, inode: descriptors are used again


def tcp_connections() -> set[Connection]:
    """All open ones of this process."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                with socket.socket(fileno=os.dup(int(name))) as same:
                    if same.family in (socket.AF_INET, socket.AF_INET6) and same.getpeername():
                        found.add((int(name), os.fstat(same.fileno()).st_ino))
    return found


def shut_down(connections: Iterable[Connection]) -> None:
    """End connections in both directions: whoever waits for them, here or there, gets an error."""
    for descriptor, inode in connections:
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as same:
            if os.fstat(same.fileno()).st_ino == inode:
                same.shutdown(socket.SHUT_RDWR)
