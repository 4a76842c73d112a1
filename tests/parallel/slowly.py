"""The training door with a pause before every step, so that a test can do something in between.

PAUSE is its length in seconds, or a file that holds it: a test that has seen what it waited for can then let the run go.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distsent import door, train
from distsent.training.update import Update


def pause() -> float:
    said = os.environ.get("PAUSE", "0")
    return float(Path(said).read_text() if said.startswith("/") else said)


if __name__ == "__main__":
    real = Update.__call__

    def slowly(self: Update, *args: Any, **kwargs: Any) -> Any:
        time.sleep(pause())
        return real(self, *args, **kwargs)

    with patch.object(Update, "__call__", slowly):
        door.enter(train.main)
