"""The DNS of a cluster: full names of ready pods. Short names need the pod's search domains.

python image_dns.py FILE ADDRESS     the file holds {name: [address, port of the probe, or null]}
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from pathlib import Path

LIFE = 1.0  # seconds that an answer is kept: a cluster keeps it for up to 30
A, AAAA, NO_SUCH_NAME = 1, 28, 3


class Names:
    """Names of pods. A name exists while the probe of its pod succeeds."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, tuple[float, str | None]] = {}

    def find(self, name: str) -> str | None:
        """The address of a ready pod, or None."""
        end, address = self._known.get(name, (0.0, None))
        if time.monotonic() > end:
            address = self._probe(*json.loads(self._file.read_text()).get(name, (None, None)))
            self._known[name] = time.monotonic() + LIFE, address
        return address

    @staticmethod
    def _probe(address: str | None, port: int | None) -> str | None:
        if address is None or port is None:
            return address
        try:
            socket.create_connection((address, port), timeout=1).close()
        except OSError:
            return None
        return address


def answer(query: bytes, names: Names) -> bytes:
    """The answer to a query with one question."""
    labels, place = [], 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode(errors="replace"))
        place += 1 + length
    (kind,) = struct.unpack_from(">H", query, place + 1)
    address = names.find(".".join(labels).lower())
    found = b""
    if address is not None and kind == A:
        found = struct.pack(">HHHIH", 0xC00C, A, 1, 5, 4) + socket.inet_aton(address)
    flags = 0x8580 | (0 if address else NO_SUCH_NAME)
    return (
        query[:2] + struct.pack(">5H", flags, 1, bool(found), 0, 0) + query[12 : place + 5] + found
    )


if __name__ == "__main__":
    known = Names(Path(sys.argv[1]))
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((sys.argv[2], 53))
    while True:
        packet, client = server.recvfrom(4096)
        server.sendto(answer(packet, known), client)
