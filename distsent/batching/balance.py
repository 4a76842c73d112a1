"""Who trains what: a global batch dealt to workers by cost, and a worker's share cut into micro-batches.

The batch itself never changes: only its examples are handed out so that every worker finishes at the same time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cost(lengths: np.ndarray, per_token: float, per_pair: float) -> np.ndarray:
    """Relative cost of examples: linear layers grow with the length, attention with its square."""
    lengths = lengths.astype(np.float64)
    return per_token * lengths + per_pair * lengths * lengths


def assign_to_ranks(costs: np.ndarray, workers: int) -> np.ndarray:
    """Owner of every example, int64 of the same shape as `costs` (batches, examples): workers' sums of cost nearly equal.

    In rounds, the next most costly examples go to the workers in order of their load so far, least loaded first;
    every worker thus gets the same number of examples, give or take one. Then pairs are swapped between the fullest
    and the emptiest while that helps. Deterministic, so that every worker deals the same hands.
    """
    batches, n = costs.shape
    rounds = -(-n // workers)
    order = np.argsort(-costs, axis=1, kind="stable")
    sorted_costs = np.zeros((batches, rounds * workers))
    sorted_costs[:, :n] = np.take_along_axis(costs, order, axis=1)
    hands = np.empty((batches, rounds * workers), dtype=np.int64)
    loads = np.zeros((batches, workers))
    for r in range(rounds):
        now = slice(r * workers, (r + 1) * workers)
        hands[:, now] = np.argsort(loads, axis=1, kind="stable")
        np.put_along_axis(
            loads,
            hands[:, now],
            np.take_along_axis(loads, hands[:, now], axis=1) + sorted_costs[:, now],
            axis=1,
        )
    owner = np.empty((batches, n), dtype=np.int64)
    np.put_along_axis(owner, order, hands[:, :n], axis=1)
    for batch in range(batches) if workers > 1 else ():
        _even_out(costs[batch], owner[batch], loads[batch])
    return owner


def _even_out(costs: np.ndarray, owner: np.ndarray, loads: np.ndarray, tries: int = 8) -> None:
    """Swap single examples between the fullest and the emptiest worker while that narrows the gap. In place."""
    for _ in range(tries):
        full, empty = int(loads.argmax()), int(loads.argmin())
        gap = loads[full] - loads[empty]
        if gap <= 0.004 * loads[full]:
            return
        mine, theirs = np.flatnonzero(owner == full), np.flatnonzero(owner == empty)
        if len(mine) == 0 or len(theirs) == 0:
            return
        moved = costs[mine][:, None] - costs[theirs][None, :]
        i, j = divmod(int(np.abs(moved - gap / 2).argmin()), len(theirs))
        if not 0 < moved[i, j] < gap:
            return
        owner[mine[i]], owner[theirs[j]] = empty, full
        loads[full] -= moved[i, j]
        loads[empty] += moved[i, j]


def micro_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Positions 0..n-1 cut into groups of at most `budget` tokens, shortest first; a longer example stands alone.

    The groups are evened out: three groups of a third each rather than two full ones and a rest.
    """
    if len(lengths) == 0:
        return []
    order = np.argsort(lengths, kind="stable")
    groups = -(-int(lengths.sum()) // budget)
    aim = min(budget, int(lengths.sum()) / groups + int(lengths.max()) / 2)
    return split_by_tokens(order, lengths, aim)


def split_by_tokens(
    order: Sequence[int] | np.ndarray, lengths: np.ndarray, budget: float
) -> list[np.ndarray]:
    """`order` cut into consecutive pieces of at most `budget` tokens each, at least one example a piece."""
    pieces: list[np.ndarray] = []
    start, held = 0, 0
    for i, position in enumerate(order):
        if held and held + lengths[position] > budget:
            pieces.append(np.asarray(order[start:i]))
            start, held = i, 0
        held += int(lengths[position])
    pieces.append(np.asarray(order[start:]))
    return pieces
