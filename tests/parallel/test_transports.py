"""torch's transport trains what Horovod trains; `TEST_TRANSPORT=torch` runs all tests over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import fixtures, launcher
from tests.parallel.conftest import plan
from tests.parallel.test_invariance import deviation

World = Callable[[int], Path]
pytestmark = pytest.mark.skipif(launcher.TRANSPORT == "torch", reason="it is compared with Horovod")


@pytest.fixture(scope="session")
def over_torch(
    tmp_path_factory: pytest.TempPathFactory, parts: tuple[str, ...]
) -> Callable[[int], Path]:
    """np -> the folder with the runs of `plan(np)` that have no mistake, over torch."""
    made: dict[int, Path] = {}

    def trained(np: int) -> Path:
        if np not in made:
            folder = made[np] = tmp_path_factory.mktemp(f"torch{np}")
            entries = plan((*parts, f"run.dir={folder}"), np)
            kept = [each for each in entries if each["mutant"] is None][:3]
            (folder / "plan.json").write_text(json.dumps(kept))
            words = "-m", "tests.parallel.driver", str(folder / "plan.json")
            ended = launcher.run(*words, np=np, transport="torch")
            assert ended.code == 0, ended.output
        return made[np]

    return trained


@pytest.mark.parametrize("name", ["plain", "dropout", "tiny"])
def test_two_workers_get_the_bits_of_horovod(world: World, over_torch: World, name: str) -> None:
    """Buckets leave during backward; in `tiny`, workers have no example in some batches."""
    over_horovod, here = (fixtures.result(folder(2) / name) for folder in (world, over_torch))
    assert here["weights_sha256"] == over_horovod["weights_sha256"]
    log = (over_torch(2) / name / "train.log").read_text()
    assert "transport: torch over Gloo, started by distsent.launch (WORLD_SIZE=2)" in log


@pytest.mark.parametrize("np", [4, pytest.param(8, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("name", ["plain", "dropout", "tiny"])
def test_more_workers_get_the_weights_and_the_curve_of_horovod(
    world: World, over_torch: World, np: int, name: str
) -> None:
    """Sums of more than two terms depend on the order, which differs between the transports."""
    over_horovod, here = (folder(np) / name for folder in (world, over_torch))
    assert deviation(here, over_horovod) < 1e-5
    files = (load_file(run / "model" / "model.safetensors") for run in (here, over_horovod))
    weights, reference = (torch.cat([each.flatten() for each in file.values()]) for file in files)
    assert (weights - reference).norm() < 1e-5 * reference.norm()
