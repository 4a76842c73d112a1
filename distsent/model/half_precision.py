"""Whether a classifier computes at all, and in half precision: found out with two short texts.

Some of transformers' architectures mix float types under autocast (DeBERTa, X-MOD), and some take
only texts of one length (Nystromformer).
"""

from typing import Any

import numpy as np
import torch

from distsent.batching.packing import PackedBatch, pack
from distsent.errors import UserError
from distsent.model.forward import Forward, autocast

TEXTS = ["a", "a few more words than in the first text"]


def usable_precision(
    forward: Forward, tokenizer: Any, precision: str, key: str | None
) -> tuple[str, str | None]:
    """`precision` if the classifier computes in it, else float32 and a line for the log.

    `key` is what asked for it, None if it was measured. Raises UserError if the classifier fails
    in float32, too, with weights in 16 bits perhaps, or in a precision that was asked for.
    """
    model, device = forward.model, forward.model.device
    encoded = tokenizer(TEXTS, truncation=True, max_length=8, verbose=False)["input_ids"]
    ids = [np.asarray(x, dtype=np.int64) for x in encoded]
    batch = pack(ids, np.zeros(len(ids)), device=device)
    name = type(model).__name__
    if error := _error(forward, batch, "float32"):
        problem = f"{name} fails on a batch of two short texts ({error})"
        if any(p.dtype == torch.bfloat16 for p in model.parameters()):
            raise UserError(f'adapter.bits = 16: {problem}; set it to "none" or 4')
        raise UserError(f"model.name: {problem}")
    error = None if precision == "float32" else _error(forward, batch, precision)
    if error is None:
        return precision, None
    problem = f"transformers' {name} fails in {precision} ({error})"
    if key is not None:
        raise UserError(f"{key} = {precision!r}: {problem}; use float32")
    return "float32", f"this run uses float32: {problem}"


def _error(forward: Forward, batch: PackedBatch, precision: str) -> str | None:
    training = forward.model.training
    forward.model.eval()
    try:
        with torch.no_grad(), autocast(batch.ids_T.device, precision):
            logits = forward(batch)
        if not logits.isfinite().all():
            return "its logits are not finite"
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    finally:
        forward.model.train(training)
    return None
