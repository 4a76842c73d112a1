"""Whether this host knows its own name: Gloo looks it up, and crashes where that fails."""

import socket
from contextlib import suppress


def host_name_problem(name: str) -> str:
    """Why the name of this host is none of its own addresses; empty if it is one."""
    problem = f"this host's name, {name}, does not resolve"
    with suppress(socket.gaierror):
        for family, kind, _, _, address in socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM):
            problem = f"this host's name, {name}, is {address[0]}, no address of this host"
            with suppress(OSError), socket.socket(family, kind) as probe:
                probe.bind(address)
                return ""
    return problem


def host_name_fix(name: str) -> str:
    return f"Gloo would crash: add the line `127.0.1.1 {name}` to /etc/hosts, or use MPI"
