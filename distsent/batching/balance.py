"""Load balance: a global batch is assigned to workers by cost, and split into micro-batches.

The batch itself never changes: only its examples are distributed so that all workers finish at the
same time.
"""

import numpy as np


def cost(lengths: np.ndarray, per_token: float, per_pair: float) -> np.ndarray:
    """Relative cost of examples: linear in the length for layers, quadratic for attention."""
    lengths = lengths.astype(np.float64)
    return per_token * lengths + per_pair * lengths * lengths


def assign_to_ranks(costs: np.ndarray, workers: int) -> np.ndarray:
    """The rank of every example, int64 [batches, examples] like `costs`, with balanced loads.

    In rounds, the next most costly examples go to the workers in order of their load so far, least
    loaded first, so that example counts differ by at most one. Then pairs are swapped between the
    most and the least loaded worker while that helps. Deterministic: all workers agree.
    """
    batches, n = costs.shape
    rounds = -(-n // workers)
    order = np.argsort(-costs, axis=1, kind="stable")
    sorted_costs = np.zeros((batches, rounds * workers))
    sorted_costs[:, :n] = np.take_along_axis(costs, order, axis=1)
    ranks = np.empty((batches, rounds * workers), dtype=np.int64)
    loads = np.zeros((batches, workers))
    for r in range(rounds):
        now = slice(r * workers, (r + 1) * workers)
        ranks[:, now] = np.argsort(loads, axis=1, kind="stable")
        grown = np.take_along_axis(loads, ranks[:, now], axis=1) + sorted_costs[:, now]
        np.put_along_axis(loads, ranks[:, now], grown, axis=1)
    owner = np.empty((batches, n), dtype=np.int64)
    np.put_along_axis(owner, order, ranks[:, :n], axis=1)
    for batch in range(batches) if workers > 1 else ():
        _rebalance(costs[batch], owner[batch], loads[batch])
    return owner


def _rebalance(costs: np.ndarray, owner: np.ndarray, loads: np.ndarray) -> None:
    """Swap examples between the most and the least loaded worker while that helps. In place."""
    for _ in range(8):
        most, least = int(loads.argmax()), int(loads.argmin())
        gap = loads[most] - loads[least]
        if gap <= 0.004 * loads[most]:
            return
        mine, theirs = np.flatnonzero(owner == most), np.flatnonzero(owner == least)
        if len(mine) == 0 or len(theirs) == 0:
            return
        moved = costs[mine][:, None] - costs[theirs][None, :]
        i, j = divmod(int(np.abs(moved - gap / 2).argmin()), len(theirs))
        if not 0 < moved[i, j] < gap:
            return
        owner[mine[i]], owner[theirs[j]] = least, most
        loads[most] -= moved[i, j]
        loads[least] += moved[i, j]


def micro_batches(lengths: np.ndarray, budget: int) -> list[np.ndarray]:
    """Split positions 0..n-1 into groups of at most `budget` tokens, shortest examples first.

    A longer example is a group of its own. Groups are evened out: three of a third each rather
    than two full ones and a remainder.
    """
    if len(lengths) == 0:
        return []
    order = np.argsort(lengths, kind="stable")
    groups = -(-int(lengths.sum()) // budget)
    target = min(budget, int(lengths.sum()) / groups + int(lengths.max()) / 2)
    return split_by_tokens(order, lengths, target)


def split_by_tokens(order: np.ndarray, lengths: np.ndarray, budget: float) -> list[np.ndarray]:
    """Split `order` into runs of at most `budget` tokens each, with at least one example."""
    pieces: list[np.ndarray] = []
    start, tokens = 0, 0
    for i, position in enumerate(order):
        if tokens and tokens + lengths[position] > budget:
            pieces.append(order[start:i])
            start, tokens = i, 0
        tokens += int(lengths[position])
    return [*pieces, order[start:]]
