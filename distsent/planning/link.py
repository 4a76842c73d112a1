"""How long an all-reduce takes: the formulas of its algorithms, and their fit to measurements.

On a ring of R workers, 2 (R-1) messages of n / R bytes pass each link, one after another (Patarasuk
and Yuan, 2009). With halving and doubling, 2 log2 R messages do, of as many bytes together (Thakur
et al., 2005).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distsent.planning.fit import fit_times

RING, TREE = "ring", "tree"  # tree: the faster of both, as NCCL and MPI choose


@dataclass(frozen=True)
class Link:
    """What connects workers: those of a machine, or machines (`bandwidth` is then a machine's)."""

    latency: float  # seconds of a message, with the call that starts it
    bandwidth: float  # bytes per second, each way
    algorithm: str = RING

    def seconds(self, messages: Sequence[float], workers: int) -> float:
        """An all-reduce of each of `messages` (bytes), one after another."""
        if workers == 1:
            return 0.0
        sent = 2 * (workers - 1) / workers * sum(messages)  # by each
        hopping = hops(workers, self.algorithm) * len(messages)
        return self.latency * hopping + sent / self.bandwidth


def hops(workers: int, algorithm: str) -> float:
    """Messages that wait for each other in one all-reduce."""
    ring = 2.0 * (workers - 1)
    return min(ring, 2.0 * math.ceil(math.log2(workers))) if algorithm == TREE else ring


def slower(one: Link, other: Link) -> Link:
    """A ring through both is as slow as its slowest link."""
    return Link(
        max(one.latency, other.latency),
        min(one.bandwidth, other.bandwidth),
        other.algorithm,
    )


@dataclass(frozen=True)
class Exchange:
    """A measured all-reduce of `messages` (bytes) by `workers`."""

    messages: tuple[float, ...]
    workers: int
    seconds: float


def fit_link(measured: Sequence[Exchange], algorithm: str = RING) -> Link:
    """The link that explains all-reduces of several sizes best."""
    rows = []
    for each in measured:
        sent = 2 * (each.workers - 1) / each.workers * sum(each.messages)
        rows.append((hops(each.workers, algorithm) * len(each.messages), sent))
    latency, per_byte = fit_times(np.array(rows), [each.seconds for each in measured])
    return Link(latency, 1 / per_byte if per_byte > 0 else math.inf, algorithm)
