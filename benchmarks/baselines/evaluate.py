"""`python -m distsent.evaluate`, which also writes logits.npy into the folder that LOGITS names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from distsent import cli
from distsent import evaluate as entry_point
from distsent.evaluation import offline
from distsent.evaluation.evaluate_split import evaluate_split


def evaluate_and_save(world: Any, *rest: Any, **options: Any) -> Any:
    scores, logits_nC = evaluate_split(world, *rest, **options)
    if world.is_main:
        np.save(Path(os.environ["LOGITS"]) / "logits.npy", logits_nC.numpy())
    return scores, logits_nC


def main(arguments: list[str]) -> int:
    with patch.object(offline, "evaluate_split", evaluate_and_save):
        return entry_point.main(arguments)


if __name__ == "__main__":
    cli.run(main)
