"""The training door with a pause of PAUSE seconds before every step, so that a test can do something in between."""

from __future__ import annotations

import os
import time
from typing import Any
from unittest.mock import patch

from distsent import door, train
from distsent.training.update import Update

if __name__ == "__main__":
    real = Update.__call__

    def slowly(self: Update, *args: Any, **kwargs: Any) -> Any:
        time.sleep(float(os.environ.get("PAUSE", "0")))
        return real(self, *args, **kwargs)

    with patch.object(Update, "__call__", slowly):
        door.enter(train.main)
