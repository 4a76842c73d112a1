"""Checks that systems train alike: loss curves over the same batches, float32, no dropout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.comparison import Comparison, ResultsDiffer
from benchmarks.workload import Workload

STEPS = 5
TOLERANCE = 1e-3  # relative; rounding grows with every step, a wrong recipe shows at the second
OWN_BATCHES = "group_by_length"  # a system with this in its name selects other batches by design


def check_loss_curves(comparison: Comparison, work: Workload, folder: Path) -> dict[str, str]:
    """Raises ResultsDiffer unless all curves agree with the reference's."""
    same = replace(work, precision="float32", dropout=0.0, order="distsent", steps=STEPS, warmup=1)
    systems = comparison.systems
    reference, *others = (name for name in systems if OWN_BATCHES not in name)
    curve = systems[reference](same, folder / "first")["losses"]
    distances: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name in others:
        try:
            losses = systems[name](same, folder / str(len(distances)))["losses"]
            distances[name] = difference(curve, losses)
        except RuntimeError as error:  # the table reports it, too
            missing[name] = f"no loss curve: {error}"
    far = [f"{name}: {value:.1e}" for name, value in distances.items() if not value <= TOLERANCE]
    if far:
        raise ResultsDiffer(
            f"loss curves over the same {STEPS} batches differ from {reference}'s: "
            f"{', '.join(far)} (relative)"
        )
    what = f"loss curve over the same {STEPS} batches (float32, no dropout)"
    return missing | {
        name: f"{what} within {value:.0e} of {reference}'s" for name, value in distances.items()
    }


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Largest relative difference; infinite for other lengths or non-finite losses."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return max(abs(x - y) / max(abs(x), 1e-9) for x, y in zip(a, b, strict=True))
