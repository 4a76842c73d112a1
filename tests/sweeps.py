"""Sweeps with a trainer that trains nothing:  python -m tests.sweeps ARGUMENTS OF SWEEP"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from distsent import cli, sweep
from distsent.search import controller

FAKE = str(Path(__file__).parent / "fake_trainer.py")
SPACE = """
[search]
sampler = "random"
trials = 6
[optim]
lr = { low = 1e-5, high = 1e-1, log = true }
[train]
batch_size = [16, 32, 64]
"""


def fake_command(job: Path, workers: int, transport: str) -> list[str]:
    return [sys.executable, "-S", "-E", FAKE, str(job)]


faked = patch.object(controller, "training_command", fake_command)


def files(folder: Path, space: str = SPACE, **keys: str) -> list[str]:
    """The arguments of a sweep in `folder`; its dataset is made if it is missing."""
    if not (folder / "data").exists():
        from tests import fixtures  # which imports torch: not in the process of each sweep

        fixtures.corpus(folder / "data", train=30, validation=9, test=6)
    lines = [
        f"[data]\nsource = '{folder}/data'\n[model]\nname = 'demo'",
        f"[job]\nname = 'job'\n[run]\ndir = '{folder}/runs'",
    ]
    (folder / "job.toml").write_text("\n".join(lines))
    (folder / "space.toml").write_text(space)
    words = [f"{name.replace('__', '.')}={value}" for name, value in keys.items()]
    return [str(folder / "job.toml"), str(folder / "space.toml"), "train.epochs=3", *words]


def trials(folder: Path) -> dict[str, dict[str, Any]]:
    """What a sweep knows of each of its runs, by name."""
    found = sorted((folder / "runs/job-sweep").glob("trial-*/sweep/trial.json"))
    return {path.parts[-3]: json.loads(path.read_text()) for path in found}


def trained(folder: Path) -> dict[str, list[str]]:
    """What the trainer wrote down in each run."""
    found = sorted((folder / "runs/job-sweep").glob("trial-*/trained"))
    return {path.parent.name: path.read_text().splitlines() for path in found}


if __name__ == "__main__":
    with faked:
        cli.run(sweep.main)
