"""Whether this GPU's kernels compute what torch computes: found out with a few texts at the start.

A kernel that is wrong on a kind of GPU would train on.
"""

import torch
from torch import Tensor

from distsent.model import batching_check
from distsent.model.classifier import token_limit
from distsent.model.forward import Forward
from distsent.model.trial_step import trial_step
from distsent.operators import library

LENGTHS = (1, 5, 33, 70, 130)  # of the texts: one token, and over one or several tiles
# Distance of logits and of all gradients, relative to their norms. On CPUs the two versions were up
# to 1e-6 (float32) and 4e-3 (bf16) apart; one wrong dropout mask of 10 % in one layer of 6 to 24
# moved gradients by 0.05 to 0.11.
TOLERANCE = {"float32": 1e-3, "bf16": 2e-2, "fp16": 1e-2}


def check_kernels(forward: Forward, precision: str, version: str) -> None:
    """Raise library.Unavailable unless kernels and references agree on logits and gradients.

    `version`: of the kernels. The references are in use, before and after. Leaves no gradients.
    """
    lengths = batching_check.within(token_limit(forward.model), LENGTHS)
    ids = batching_check.examples(forward.model.config, lengths)
    reference = trial_step(forward, ids, precision)
    library.use(version)
    try:
        found = trial_step(forward, ids, precision)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds: Triton's compiler, the driver
        what = (str(error).splitlines() or [""])[0][:120]
        name = type(error).__name__
        raise library.Unavailable(f"its kernels fail on this GPU: {name}: {what}") from error
    finally:
        library.use(library.REFERENCE)
    pairs = (("logits", [found[0]], [reference[0]]), ("gradients", found[1], reference[1]))
    for what, ours, expected in pairs:
        far = distance(ours, expected)
        if not far <= TOLERANCE[precision]:
            raise library.Unavailable(
                f"on this GPU the {what} of a trial step in {precision} are {far:.2g} (relative) "
                f"from torch's, allowed {TOLERANCE[precision]:g}"
            )


def distance(found: list[Tensor], expected: list[Tensor]) -> float:
    """|found - expected| / |expected|, over all tensors together."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(found, expected, strict=True))
    return (apart / max(sum(float(b.square().sum()) for b in expected), 1e-300)) ** 0.5
