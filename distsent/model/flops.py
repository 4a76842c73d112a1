"""Floating-point operations of any model's layers, counted on a few tokens.

Forward passes of four tiny batches run once under torch's counter. Two batches of short examples
tell what an example adds, apart from what a call takes in any case; longer examples tell what
grows with tokens and what with pairs of tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from distsent.batching.flops import FlopCounter, count_flops, passes
from distsent.batching.packing import pack
from distsent.model import batching_check
from distsent.model.forward import Forward, autocast
from distsent.operators import library

TOKENS = 16  # of the shortest examples


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's counter, told of the products that it does not know: on CPUs, and in place.

    It sees none inside of compiled operators: their references run.
    """
    ops = torch.ops
    known: dict[Any, Any] = {
        ops.aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
        ops.aten.baddbmm_: added_product_flops,
    }
    if hasattr(ops.mkldnn, "_linear_pointwise"):
        known[ops.mkldnn._linear_pointwise] = linear_flops
    with library.reference(), FlopCounterMode(display=False, custom_mapping=known) as counter:
        yield counter


Shape = Sequence[int]


def attention_flops(q: Shape, k: Shape, v: Shape, *args: Any, **kwargs: Any) -> int:
    return int(sdpa_flop_count(q, k, v))


def added_product_flops(sum: Shape, a: Shape, b: Shape, *args: Any, **kwargs: Any) -> int:
    """Of a [m, n, K] times b [m, K, N], added to a sum."""
    return 2 * a[0] * a[1] * a[2] * b[2]


def linear_flops(x: Shape, weight: Shape, *args: Any, **kwargs: Any) -> int:
    """Of x [n, K] and weight [N, K]."""
    return 2 * x[0] * x[1] * weight[0]


def measure_flops(
    forward: Forward, precision: str = "float32", frozen: bool = False
) -> FlopCounter:
    """The counts of the model's forward pass. `frozen`: only adapters are trained.

    Falls back to BERT's layers where an example's count does not grow with its tokens: some
    architectures pad to the multiple of a window. Where the configuration has no sizes of layers,
    a token counts as one operation.
    """
    config, training, counts = forward.model.config, forward.model.training, []
    forward.model.eval()
    with suppress(Exception):
        shapes = ((2, TOKENS), (4, TOKENS), (2, 2 * TOKENS), (2, 3 * TOKENS))
        counts = [_count(forward, precision, examples, tokens) for examples, tokens in shapes]
    forward.model.train(training)
    found = _solve(*counts) if len(counts) == 4 else None
    if found is not None:
        return FlopCounter(*found, passes(frozen), *_windows(config.get_text_config()))
    with suppress(AttributeError):
        return count_flops(config, frozen)
    return FlopCounter(per_token=1.0, per_pair=0.0, passes=passes(frozen))


def _count(forward: Forward, precision: str, examples: int, tokens: int) -> int:
    ids = batching_check.examples(forward.model.config, [tokens] * examples)
    device, labels = forward.model.device, np.zeros(examples)
    batch = pack(ids, labels, device=device, round_shapes=False)
    with counting() as counter, autocast(device, precision):
        forward(batch)
    return int(counter.get_total_flops())


def _solve(first: int, more: int, longer: int, longest: int) -> tuple[float, float, float] | None:
    """Per token, pair and example; None if the count does not grow so."""
    rise, further = (longer - first) / 2, (longest - first) / 2  # for T, 2 T more tokens each
    per_pair = (further - 2 * rise) / (2 * TOKENS**2)
    per_token = (rise - 3 * TOKENS**2 * per_pair) / TOKENS
    per_example = (more - first) / 2 - per_token * TOKENS - per_pair * TOKENS**2
    grows = per_token > 0 and per_pair >= 0 and per_example >= 0
    return (per_token, per_pair, per_example) if grows else None


def _windows(config: Any) -> tuple[float, int]:
    """Share of the layers that attend to a window only, and its tokens."""
    kinds = getattr(config, "layer_types", None) or ()
    # ModernBERT's sliding_window is what a token sees on one side.
    window = getattr(config, "local_attention", None) or getattr(config, "sliding_window", None)
    near = sum("sliding" in kind for kind in kinds)
    return (near / len(kinds), window) if near and window else (0.0, 0)
