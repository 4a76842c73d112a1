"""Whether this GPU's kernels compute what torch computes: found out with a few texts at the start.

A kernel that is wrong on a kind of GPU would train on.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distsent.model import batching_check
from distsent.model.classifier import token_limit
from distsent.model.forward import Forward
from distsent.model.trial_step import trial_step
from distsent.operators import library

LENGTHS = (1, 5, 33, 70, 130)  # of the texts: one token, and over one or several tiles
# Distance of logits and of all gradients, relative to their norms. On CPUs the two versions were up
# to 1e-6 (float32) and 9e-3 (bf16) apart; one wrong dropout mask of 10 % in one layer of 6 to 24
# moved gradients by 0.05 to 0.11.
TOLERANCE = {"float32": 1e-3, "bf16": 2e-2, "fp16": 1e-2}
# A ReLU near zero, as in DistilBERT's head, makes a whole gradient of a rounding: in bf16 torch's
# gradients were 0.07 from those in float32, and the kernels' 0.06 from torch's.
ROUNDINGS = 2

Trial = tuple[Tensor, list[Tensor]]  # logits and gradients


def check_kernels(forward: Forward, precision: str, version: str) -> None:
    """Raise library.Unavailable unless kernels and references agree on logits and gradients.

    Where rounding alone moves a model by more than the tolerance, that much is allowed, if they
    agree in float32. `version`: of the kernels. The references are in use, before and after. Leaves
    no gradients.
    """
    lengths = batching_check.within(token_limit(forward.model), LENGTHS)
    ids = batching_check.examples(forward.model.config, lengths)
    reference = trial_step(forward, ids, precision)
    apart = distances(_with_kernels(forward, ids, precision, version), reference)
    if precision == "float32" or all(far <= TOLERANCE[precision] for far in apart.values()):
        _require(apart, precision)
        return
    exact = trial_step(forward, ids, "float32")
    _require(apart, precision, distances(reference, exact))
    del reference
    _require(distances(_with_kernels(forward, ids, "float32", version), exact), "float32")


def _require(
    apart: dict[str, float], precision: str, rounding: dict[str, float] | None = None
) -> None:
    """`rounding`: how far torch in this precision is from torch in float32. NaN allows nothing."""
    for what, far in apart.items():
        allowed = TOLERANCE[precision]
        if rounding is not None:
            allowed = max(allowed, ROUNDINGS * rounding[what])
        if not far <= allowed:
            raise library.Unavailable(
                f"on this GPU the {what} of a trial step in {precision} are {far:.2g} (relative) "
                f"from torch's, allowed {allowed:.2g}"
            )


def _with_kernels(
    forward: Forward, ids: Sequence[np.ndarray], precision: str, version: str
) -> Trial:
    library.use(version)
    try:
        return trial_step(forward, ids, precision)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds: Triton's compiler, the driver
        what = (str(error).splitlines() or [""])[0][:120]
        name = type(error).__name__
        raise library.Unavailable(f"its kernels fail on this GPU: {name}: {what}") from error
    finally:
        library.use(library.REFERENCE)


def distances(found: Trial, expected: Trial) -> dict[str, float]:
    """Of the logits and of the gradients."""
    return {
        "logits": distance([found[0]], [expected[0]]),
        "gradients": distance(found[1], expected[1]),
    }


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, over all tensors together."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return (apart / max(sum(float(b.square().sum()) for b in expected), 1e-300)) ** 0.5
