"""Who is to blame when a run makes no progress: decided from the positions of all workers alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from distsent.distributed.progress import Position

# A step may take long as a whole, but not ten times as long as others. What is done once has no
# such measure: reading, compiling kernels, writing to slow storage, loading from the network.
LONG = {
    "import": 10, "rendezvous": 10, "load": 10, "tokenize": 10, "save": 10, "publish": 10,
    "download": 60,
}  # fmt: skip
FIRST = 10  # a worker that computes before the first step is done, or outside of steps
STEPS = 10  # median steps


@dataclass(frozen=True)
class Verdict:
    """`blamed`: ranks to name; empty if it is no worker's fault alone. `why`: of each of them."""

    blamed: tuple[int, ...]
    why: str


def judge(positions: Mapping[int, Position], history: Sequence[str] = ()) -> Verdict:
    """Who keeps the others waiting. `history`: the collectives that rank 0 has entered."""
    most = max(position.entered for position in positions.values())
    behind = [rank for rank, position in positions.items() if position.entered < most]
    ahead = [position for rank, position in positions.items() if rank not in behind]
    waited_in = Counter(position.collective for position in ahead if position.collective)
    common = waited_in.most_common(1)[0][0] if waited_in else ""
    if behind:
        # One that waits in an earlier collective waits for those that do not.
        blamed = [rank for rank in behind if not positions[rank].collective] or behind
        return Verdict(tuple(blamed), f"has not entered {_others(common)}")
    if not common:
        return Verdict(tuple(positions), "does not move, and no worker waits for another")
    if len(waited_in) > 1:
        return _skipped(positions, waited_in, history)
    if len(positions) > waited_in.total():
        idle = tuple(rank for rank, position in positions.items() if not position.collective)
        return Verdict(idle, f"does not wait in {common!r} as the others do")
    return Verdict((), f"all workers wait in {common!r}: the network or the transport hangs")


def _others(collective: str) -> str:
    what = f"the collective {collective!r}" if collective else "the last collective"
    return f"{what} that the others wait in"


def _skipped(
    positions: Mapping[int, Position], waited_in: Counter[str], history: Sequence[str]
) -> Verdict:
    """Workers have entered equally many collectives, but wait in different ones."""
    (first, many), (second, fewer) = waited_in.most_common(2)
    right = first if many > fewer else _expected(first, second, history)
    odd = {p.collective for p in positions.values() if p.collective} - {right}
    named = ", ".join(map(repr, sorted(odd)))
    blamed = tuple(rank for rank, p in positions.items() if p.collective in odd)
    if right:
        return Verdict(
            blamed, f"waits in {named}, the others in {right!r}: it skipped a collective"
        )
    return Verdict(blamed, f"is in another of the collectives {named}: one of them was skipped")


def _expected(first: str, second: str, history: Sequence[str]) -> str:
    """Which of two collectives was due: the other one follows it. Empty if nothing tells."""
    before = history[:-1]
    pairs = {*pairwise(before)}
    due = [a for a, b in ((first, second), (second, first)) if (a, b) in pairs]
    if len(due) == 1:
        return due[0]
    for i in range(len(history) - 3, -1, -1):  # what followed the last one before, earlier
        if history[i] == history[-2] and history[i + 1] in (first, second):
            return history[i + 1]
    return ""


def bound(
    position: Position, computing: bool, stall_seconds: float, steps: Sequence[float]
) -> float:
    """Seconds after which a worker counts as stuck where it is. `steps`: seconds of recent ones."""
    factor = LONG.get(position.phase, 1)
    if factor == 1 and steps:
        return max(stall_seconds, STEPS * median(steps))
    return stall_seconds * factor * (FIRST if computing else 1)


def verdict_bound(
    verdict: Verdict,
    positions: Mapping[int, Position],
    computing: Mapping[int, bool],
    stall_seconds: float,
    steps: Sequence[float],
) -> float:
    """Seconds without progress after which the verdict holds."""
    ranks = verdict.blamed or tuple(positions)
    bounds = (bound(positions[r], computing.get(r, False), stall_seconds, steps) for r in ranks)
    return max(bounds)
