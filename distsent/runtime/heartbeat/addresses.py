"""Where rank 0 listens, and at which addresses the other workers try to reach it.

Loopback is for workers of one machine only.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from distsent.distributed import network
from distsent.errors import UserError

Address = tuple[str, int]  # host, port
BACKLOG = 4096  # the kernel cuts it to its own limit


def listen(interface: str, one_machine: bool) -> list[socket.socket]:
    """Listening sockets, at a free port each. Raises UserError for an unknown interface."""
    if one_machine:
        return [_listen("127.0.0.1")]
    if chosen := network.chosen_interfaces(interface, network.interfaces()):
        sockets = [_listen(host) for host in network.addresses(chosen)]
        if not sockets:
            raise UserError(f"run.interface: {', '.join(chosen)} has no address on this host")
        return sockets
    try:
        everywhere = socket.socket(socket.AF_INET6)
        everywhere.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        everywhere.bind(("::", 0))
        everywhere.listen(BACKLOG)
        return [everywhere]
    except OSError:  # a kernel without IPv6
        return [_listen("0.0.0.0")]


def _listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family)
    server.bind((host, 0))
    server.listen(BACKLOG)
    return server


def reachable(sockets: Sequence[socket.socket]) -> list[Address]:
    """The addresses at which other workers may reach these sockets."""
    found: list[Address] = []
    for server in sockets:
        host, port = server.getsockname()[:2]
        if ipaddress.ip_address(host).is_unspecified:
            found += [(name, port) for name in network.addresses()]
        else:
            found.append((host, port))
    return found
