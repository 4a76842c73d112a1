"""Whether every operator of a classifier's training sums in one order: found out with two texts."""

from typing import Any

import numpy as np
import torch

from distsent.model.forward import Forward
from distsent.model.half_precision import TEXTS
from distsent.model.trial_step import trial_step


def strict_or_note(forward: Forward, tokenizer: Any, precision: str) -> str | None:
    """Turn on torch's strict mode (torch.use_deterministic_algorithms) if the classifier can train.

    Else torch only warns, and the log gets the line returned: then attention's gradients vary, too.
    Leaves no gradients.
    """
    encoded = tokenizer(TEXTS, truncation=True, max_length=8, verbose=False)["input_ids"]
    ids = [np.asarray(x, dtype=np.int64) for x in encoded]
    torch.use_deterministic_algorithms(True)
    try:
        trial_step(forward, ids, precision)
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        torch.use_deterministic_algorithms(True, warn_only=True)
        operator = str(error).split()[0][:40]
        return f"a resumed run may differ in the last bits: {operator} sums in no fixed order here"
    return None
