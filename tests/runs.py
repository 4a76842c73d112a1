"""Finished runs for tests, trained once in the process of the tests."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from distsent.distributed.world import World
from tests import fixtures, systems
from tests.parallel.driver import drive, entry


@cache
def _trained(folder: Path) -> Path:
    corpus = fixtures.corpus(folder / "corpus", train=60, validation=20, test=40)
    encoder = systems.encoder(folder / "encoder", "bert")
    base = [
        f"data.source={corpus}", f"model.name={encoder}", f"run.dir={folder / 'runs'}",
        "data.max_length=40", "train.batch_size=8", "train.epochs=2", "log.every=1",
        "optim.lr=5e-3",
    ]  # fmt: skip
    plain = [*base, "adapter.kind=none"]
    drive(
        [
            entry("plain", plain),
            entry("seeds-seed1", [*plain, "train.seed=1", "eval.every=6"]),
            entry("seeds-seed2", [*plain, "train.seed=2", "eval.every=6"]),
            entry(
                "lora", [*base, "adapter.kind=lora", "adapter.dropout=0.1", "log.tensorboard=false"]
            ),
        ],
        World(),
        complete=True,
    )
    return folder / "runs"


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs `plain`, `seeds-seed1`, `seeds-seed2` and `lora`.

    The dataset and the encoder are beside it. Modules that import the fixture share the runs.
    """
    return _trained(tmp_path_factory.getbasetemp() / "finished")
