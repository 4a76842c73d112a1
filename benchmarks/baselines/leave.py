"""The end of a scorer's run: its speed, memory and logits, left where the contest looks for them."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np


def leave(work: dict[str, Any], seconds: float, logits: np.ndarray) -> None:
    out = Path(work["out"])
    np.save(out.parent / "logits.npy", logits)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out.write_text(
        json.dumps({"examples_per_second": len(logits) / seconds, "memory_bytes": memory})
    )
