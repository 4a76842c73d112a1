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


def judge(
    positions: Mapping[int, Position], entered: Mapping[int, Sequence[str]] | None = None
) -> Verdict:
    """Who keeps the others waiting. `entered`: the last collectives of workers, in order."""
    if entered and (different := _first_difference(positions, entered)):
        return different
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
        return _blame_odd({rank: p.collective for rank, p in positions.items()}, "")
    if len(positions) > waited_in.total():
        idle = tuple(rank for rank, position in positions.items() if not position.collective)
        return Verdict(idle, f"does not wait in {common!r} as the others do")
    return Verdict((), f"all workers wait in {common!r}: the network or the transport hangs")


def _others(collective: str) -> str:
    what = f"the collective {collective!r}" if collective else "the last collective"
    return f"{what} that the others wait in"


def _first_difference(
    positions: Mapping[int, Position], entered: Mapping[int, Sequence[str]]
) -> Verdict | None:
    """The blame if workers entered different collectives as their n-th: somebody left one out."""
    first = {rank: positions[rank].entered - len(names) for rank, names in entered.items()}
    start, stop = max(first.values()), min(positions[rank].entered for rank in entered)
    for n in range(start, stop):
        rest = {rank: names[n - first[rank] :] for rank, names in entered.items()}
        if len({names[0] for names in rest.values()}) > 1:
            rank = min(entered)
            before = entered[rank][: n - first[rank]]
            return _blame_odd({r: names[0] for r, names in rest.items()}, _due(rest, before))
    return None


def _blame_odd(names: Mapping[int, str], due: str) -> Verdict:
    """Workers are in different collectives. `due`: the right one, if it is not the majority's."""
    (first, many), (_, fewer) = Counter(name for name in names.values() if name).most_common(2)
    right = due or (first if many > fewer else "")
    odd = {name for name in names.values() if name} - {right}
    blamed = tuple(rank for rank, name in names.items() if name in odd)
    shown = ", ".join(map(repr, sorted(odd)))
    if right:
        return Verdict(blamed, f"entered {shown}, the others {right!r}: it skipped a collective")
    return Verdict(blamed, f"is in another of the collectives {shown}: one of them was skipped")


def _due(rest: Mapping[int, Sequence[str]], before: Sequence[str]) -> str:
    """Which of two collectives was due. Empty if there are more, or nothing tells.

    `rest`: what each worker entered from there on. If one left out the other's first, both have the
    same names after that.
    """
    (a, many), *others = Counter(names[0] for names in rest.values()).most_common()
    if len(others) > 1 or many > others[0][1]:
        return a if many > others[0][1] else ""
    b = others[0][0]
    longest = {name: max((r for r in rest.values() if r[0] == name), key=len) for name in (a, b)}
    pairs, due = {*pairwise(before)}, []
    for name, other in ((a, b), (b, a)):
        both = zip(longest[name][1:], longest[other], strict=False)
        if all(one == another for one, another in both):
            due.append(name)
    if len(due) != 1:
        due = [name for name, other in ((a, b), (b, a)) if (name, other) in pairs]
    if len(due) != 1 and {a, b} <= {*before}:  # what followed the last one, before?
        due = [y for x, y in pairwise(before) if x == before[-1] and y in (a, b)][-1:]
    return due[0] if len(due) == 1 else ""


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
