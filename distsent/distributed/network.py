"""This host in the network: who shares it, its interfaces, and the addresses that others may reach.

Names are not looked up: Debian's /etc/hosts says `127.0.1.1 name`, so between hosts a worker would
reach another program. The interfaces are asked.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from distsent.errors import HostError

# Horovod's, Gloo's and NCCL's names for the interface, if run.interface does not name one
VARIABLES = ("HOROVOD_GLOO_IFACE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
FAMILIES = (socket.AF_INET, socket.AF_INET6)


def machine() -> str:
    """Equal for processes that see each other: their loopback, and each other's process ids.

    Two containers on a host may share one of them, or none.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts += [os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "pid")]
    return " ".join(parts)


def interfaces() -> list[str]:
    """The names of all interfaces of this host."""
    return [*psutil.net_if_addrs()]


def chosen_interfaces(
    asked: str | None, present: Sequence[str], env: Mapping[str, str] = os.environ
) -> list[str]:
    """The interfaces that the job or a variable names; empty: any. `asked`: the key run.interface.

    Raises HostError if the host has none of those that the job names.

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
        problem = f"{where} = {value[:80]!r}: {socket.gethostname()} has no such network interface"
        raise HostError(f"{problem}; it has {', '.join(present)}")
    return chosen


def addresses(of: Sequence[str] | None = None) -> list[str]:
    """The addresses of some interfaces, or all, at which others may reach this host; IPv4 first.

    Not loopback; not those of IPv6 that mean nothing without an interface; and those of IPv4 that a
    host gives itself only if it has no others, because nodes may all have the same (Kubernetes).
    """
    names, found = interfaces() if of is None else of, dict[str, bool]()
    for family in FAMILIES:
        for entry in (each for name in names for each in psutil.net_if_addrs().get(name, [])):
            host = entry.address.partition("%")[0]
            if entry.family == family and not ipaddress.ip_address(host).is_loopback:
                own = ipaddress.ip_address(host).is_link_local
                if not own or family == socket.AF_INET:
                    found[host] = own
    return [host for host, own in found.items() if own == all(found.values())]


def interface_to(host: str) -> str | None:
    """The interface that leads to another host's address; None if none does."""
    source = _source_address(host)
    for name, found in psutil.net_if_addrs().items():
        if source in [each.address for each in found] and not _is_loopback(found):
            return name
    return None


def loopback() -> str:
    """The name of the loopback interface."""
    return next(name for name, each in psutil.net_if_addrs().items() if _is_loopback(each))


def _is_loopback(found: Sequence[Any]) -> bool:
    return any(each.address in ("127.0.0.1", "::1") for each in found)


def _source_address(to: str) -> str | None:
    """This host's address in packets to another one; None without a route."""
    family = socket.AF_INET6 if ":" in to else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((to, 9))  # sends nothing
        return str(probe.getsockname()[0])
    return None
