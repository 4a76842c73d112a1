"""The train program with a pause before each step, so that a test can act in between.

PAUSE is its length in seconds, or a file with it, so that a test can end the pauses. FAIL,
`rank:step`, makes one worker fail in a step.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distsent import cli, train
from distsent.batching.batch_plan import Batch
from distsent.training import exchange
from distsent.training.train_step import TrainStep
from tests.launcher import rank_of
from tests.parallel.driver import CHUNK


def pause() -> float:
    said = os.environ.get("PAUSE", "0")
    return float(Path(said).read_text() if said.startswith("/") else said)


if __name__ == "__main__":
    real = TrainStep.__call__
    rank, _, step = os.environ.get("FAIL", "").partition(":")

    def slowly(self: TrainStep, batch: Batch, *args: Any, **kwargs: Any) -> Any:
        time.sleep(pause())
        if step and batch.step == int(step) and rank_of(os.getpid()) == int(rank):
            raise RuntimeError("out of memory")
        return real(self, batch, *args, **kwargs)

    with patch.object(TrainStep, "__call__", slowly), patch.object(exchange, "CHUNK", CHUNK):
        cli.run(train.main)
