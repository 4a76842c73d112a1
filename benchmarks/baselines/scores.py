"""Writes a scorer's speed, memory and logits to the files that the comparison reads."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import numpy as np


def write_scores(work: dict[str, Any], seconds: float, logits: np.ndarray) -> None:
    out = Path(work["out"])
    np.save(out.parent / "logits.npy", logits)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {"examples_per_second": len(logits) / seconds, "memory_bytes": memory}
    out.write_text(json.dumps(result))
