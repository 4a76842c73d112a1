"""A part of rows with its share of each of several labels: iterative stratification.

Sechidis, Tsoumakas, Vlahavas, "On the stratification of multi-label data", ECML PKDD 2011: the rows
of the rarest label are shared first, as later ones could not repair its share.
"""

import numpy as np
from numpy.random import Generator

MOST_SWAPS = 200  # of two rows


def draw_share(rows: np.ndarray, labels: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """`size` of `rows`, ascending, with about their share of each label, and of rows without any.

    `labels`: 0 or 1, uint8 (all rows, labels). Leaves a row of each label: the part is smaller
    where labels are too rare for that.
    """
    order = np.argsort(rng.random(len(rows)), kind="stable")
    some = labels[rows[order]]
    has = np.column_stack([some, ~some.any(axis=1)]).astype(bool)
    part = _share(has, size, rng)
    _leave_each(has, part)
    _Moves(has, part, size).improve()
    return np.sort(rows[order[part]])


def _share(has: np.ndarray, size: int, rng: Generator) -> np.ndarray:
    """Which rows are in the part, bool (n,), label by label.

    Of the rows of a label every so-many-th is taken, in the order of their other labels: so the
    part has its share of labels that occur together, too (Szymański and Kajdanowicz, 2017).
    """
    n, bits = len(has), np.packbits(has, axis=1)
    alike = np.lexsort(bits.T[::-1])  # rows with the same labels are neighbors, in random order
    has = has[alike]
    left = has.sum(axis=0)  # rows of each label that are not shared yet
    wanted = left * (size / max(1, n))  # rows of each label that the part lacks
    part, free = np.zeros(n, dtype=bool), np.ones(n, dtype=bool)
    while free.any():
        rarest = int(np.argmin(np.where(left > 0, left, n + 1)))
        these = np.flatnonzero(free & has[:, rarest])
        free[these] = False
        # Rounds to what brings the part nearer to its share of the rows so far
        lack = size / n * np.count_nonzero(~free) - np.count_nonzero(part)
        take = int(np.clip(np.floor(wanted[rarest]), 0, len(these)))
        take += bool(take < len(these) and take < wanted[rarest] and lack >= take + 0.5)
        places = (np.arange(take) + rng.random()) * (len(these) / max(1, take))
        taken = these[places.astype(np.int64)]
        part[taken] = True
        wanted -= has[taken].sum(axis=0)
        left -= has[these].sum(axis=0)
    out = np.zeros(n, dtype=bool)
    out[alike[part]] = True
    return out


def _leave_each(has: np.ndarray, part: np.ndarray) -> None:
    """Return a row of each label that the rest has none of."""
    for label in np.flatnonzero(has[:, :-1].any(axis=0) & ~has[~part, :-1].any(axis=0)):
        if not has[~part, label].any():  # an earlier label's row may have it
            part[np.flatnonzero(has[:, label])[-1]] = False


class _Moves:
    """Moves of single rows between the part and the rest."""

    def __init__(self, has: np.ndarray, part: np.ndarray, size: int) -> None:
        self.has = has.astype(np.float32)  # products with booleans take ten times as long
        self.part, self.size = part, size
        self.total, self.inside = has.sum(axis=0), has[part].sum(axis=0)  # rows of each label
        self.share = size / max(1, len(has)) * self.total

    def improve(self) -> None:
        """Move rows until there are `size` and swaps do not bring the shares nearer."""
        while (more := self.size - int(np.count_nonzero(self.part))) and self._move(more > 0):
            pass
        for _ in range(MOST_SWAPS):
            before, off = self.part.copy(), self._distance()
            if not (self._move(False) and self._move(True)) or self._distance() >= off:
                self.part[:] = before
                return

    def _distance(self) -> float:
        return float(np.square(self.inside - self.share).sum())

    def _move(self, add: bool) -> bool:
        """Move the row that brings the shares nearest, into the part or out of it, if one may."""
        able, step = (~self.part, 1) if add else (self.part, -1)
        if add:  # the rest keeps a row of each label
            last = self.total - self.inside == 1
            last[-1] = False
            able = able & (self.has @ last.astype(np.float32) == 0)
        if not able.any():
            return False
        # What a row changes in the sum of squared differences
        change = self.has @ (2 * step * (self.inside - self.share) + 1).astype(np.float32)
        row = int(np.argmin(np.where(able, change, np.inf)))
        self.part[row] = add
        self.inside = self.inside + step * self.has[row].astype(np.int64)
        return True
