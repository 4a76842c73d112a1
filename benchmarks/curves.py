"""That contestants train the same: loss curves over the same batches, in float32, with dropout off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.comparison import Comparison, Unequal
from benchmarks.workload import Workload

STEPS, TOLERANCE = (
    5,
    1e-3,
)  # relative; rounding grows with every step, a wrong recipe shows at the second
OWN_BATCHES = "group_by_length"  # who has this in his name chooses other batches: that is his point


def check(comparison: Comparison, work: Workload, folder: Path) -> dict[str, str]:
    """Raises Unequal unless all curves agree with the first contestant's."""
    same = replace(work, precision="float32", dropout=0.0, order="distsent", steps=STEPS, warm=1)
    first, *others = (name for name in comparison.contestants if OWN_BATCHES not in name)
    curve = comparison.contestants[first](same, folder / "first")["losses"]
    apart: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in others:
        try:
            apart[name] = difference(
                curve, comparison.contestants[name](same, folder / str(len(apart)))["losses"]
            )
        except RuntimeError as error:  # the table will say so, too
            missing[name] = f"no loss curve: {error}"
    far = [f"{name}: {value:.1e}" for name, value in apart.items() if not value <= TOLERANCE]
    if far:
        raise Unequal(
            f"loss curves over the same {STEPS} batches differ from {first}'s: {', '.join(far)} (relative)"
        )
    return missing | {
        name: f"loss curve over the same {STEPS} batches (float32, no dropout) within {value:.0e} of {first}'s"
        for name, value in apart.items()
    }


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """The largest relative difference of two curves; infinite where they are not of one length, or no numbers."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return max(abs(x - y) / max(abs(x), 1e-9) for x, y in zip(a, b, strict=True))
