"""Where rank 0 listens, and at which addresses the other workers try to reach it.

Loopback is for workers of one machine only. Between hosts it would reach another program: Debian's
/etc/hosts says `127.0.1.1 name`, so names are not looked up at all; the interfaces are asked.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from distsent.errors import UserError

Address = tuple[str, int]  # host, port
# Horovod's, Gloo's and NCCL's names for the interface, if run.interface does not name one
VARIABLES = ("HOROVOD_GLOO_IFACE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
BACKLOG = 4096  # the kernel cuts it to its own limit


def machine() -> str:
    """Equal for processes that see each other: their loopback, and each other's process ids.

    Two containers on a host may share one of them, or none.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts += [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid")]
    return " ".join(parts)


def listen(interface: str, one_machine: bool) -> list[socket.socket]:
    """Listening sockets, at a free port each. Raises UserError for an unknown interface."""
    if one_machine:
        return [_listen("127.0.0.1")]
    if chosen := chosen_interfaces(interface, [*psutil.net_if_addrs()]):
        sockets = [_listen(host) for host in hosts_of(chosen)]
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
            found += [(name, port) for name in hosts_of([*psutil.net_if_addrs()])]
        else:
            found.append((host, port))
    return found


def chosen_interfaces(
    asked: str, present: Sequence[str], env: Mapping[str, str] = os.environ
) -> list[str]:
    """The interfaces that the job or a variable names; empty: any.

    Raises UserError if the host has none of those that the job names.

    NCCL's syntax: prefixes, `=` before exact names, `^` before names to leave out.
    """
    names = ("run.interface", asked), *((name, env.get(name, "")) for name in VARIABLES)
    where, value = next((pair for pair in names if pair[1]), ("", ""))
    if not value:
        return []
    kind, words = (value[0], value[1:]) if value[0] in "^=" else ("", value)
    listed = [word.strip() for word in words.split(",") if word.strip()]
    prefixes = where == "NCCL_SOCKET_IFNAME" and kind != "="

    def is_listed(name: str) -> bool:
        return any(name == one or (prefixes and name.startswith(one)) for one in listed)

    chosen = [name for name in present if is_listed(name) != (kind == "^")]
    if not chosen and where == "run.interface":
        problem = f"{where} = {asked!r}: {socket.gethostname()} has no such network interface"
        raise UserError(f"{problem}; it has {', '.join(present)}")
    return chosen


def hosts_of(interfaces: Sequence[str]) -> list[str]:
    """Addresses of interfaces, without loopback and without those that mean nothing elsewhere."""
    found = []
    for name in interfaces:
        for entry in psutil.net_if_addrs().get(name, []):
            if entry.family in (socket.AF_INET, socket.AF_INET6):
                host = entry.address.partition("%")[0]
                address = ipaddress.ip_address(host)
                if not (address.is_loopback or address.is_link_local):
                    found.append(host)
    return list(dict.fromkeys(found))
