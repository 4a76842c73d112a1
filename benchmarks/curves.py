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
TOLERANCE_BF16 = 3e-2  # of logits after 28 layers that round to 8 bits
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


def check_short_bf16_losses(comparison: Comparison, work: Workload, folder: Path) -> dict[str, str]:
    """As `check_loss_curves`, for a model that is too large for it: short texts, in bf16."""
    same = replace(work, max_length=32, dropout=0.0, order="distsent", steps=2, warmup=1)
    (_, ours), *others = comparison.systems.items()
    curve, outcome = ours(same, folder / "first")["losses"], {}
    for name, system in others:
        found = difference(curve, system(same, folder / name)["losses"])
        if not found <= TOLERANCE_BF16:
            raise ResultsDiffer(f"{name}: losses over the same batches differ by {found:.1e}")
        outcome[name] = f"losses over the same 2 batches (bf16) within {found:.0e} of distsent's"
    return outcome


def difference(a: Sequence[float], b: Sequence[float]) -> float:
    """Largest relative difference; infinite for other lengths or non-finite losses."""
    if len(a) != len(b) or not all(map(math.isfinite, [*a, *b])):
        return math.inf
    return max(abs(x - y) / max(abs(x), 1e-9) for x, y in zip(a, b, strict=True))
