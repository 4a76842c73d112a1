"""Many workers on few cores train the demo to the curve of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from distsent.distributed.world import World
from tests import fixtures
from tests.chaos.fork_server import ForkServer
from tests.parallel.driver import drive, entry

# At 32 workers, most batches leave some of them without an example. Dropout is on.
JOB = (
    "data.source=demo", "model.name=demo", "data.max_rows=60", "data.max_eval_rows=20",
    "train.batch_size=24", "train.max_steps=6", "eval.every=end", "log.every=1",
    "log.tensorboard=false",
)  # fmt: skip
COLUMNS = ("loss", "grad_norm", "samples", "tokens")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with ForkServer(tmp_path_factory.mktemp("many") / "server") as started:
        yield started


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one worker, in this process."""
    folder = tmp_path_factory.mktemp("alone")
    drive([entry("run", [*JOB, f"run.dir={folder}"])], World())
    return folder / "run"


def memory(processes: Callable[[], list[int]]) -> int:
    """Bytes of all processes together; what they share counts once."""
    sizes = []
    for process in processes():
        try:
            sizes.append(psutil.Process(process).memory_full_info().pss)
        except psutil.Error:
            continue
    return sum(sizes)


@pytest.mark.parametrize("np", [8, *(pytest.param(np, marks=pytest.mark.chaos) for np in (16, 32))])
def test_they_train_to_the_curve_of_one(
    np: int, server: ForkServer, alone: Path, tmp_path: Path
) -> None:
    words = [*JOB, f"run.dir={tmp_path}", "job.name=run", f"data.store={alone.parent / '.tokens'}"]
    with server.start(words, np) as started:
        started.until((tmp_path / "run/metrics.jsonl").exists, 600)
        used = memory(lambda: [*started.workers().values()])
        ended = started.wait(900)
    assert ended.code == 0, ended.output
    lines = [
        [[line[column] for column in COLUMNS] for line in fixtures.metrics(run)]
        for run in (tmp_path / "run", alone)
    ]
    assert lines[0] == [pytest.approx(line, rel=1e-5) for line in lines[1]]
    ours, theirs = (fixtures.result(run) for run in (tmp_path / "run", alone))
    assert (ours["world_size"], ours["steps"], theirs["steps"]) == (np, 6, 6)
    for split in ("validation", "test"):
        assert ours["eval"][split]["confusion"] == theirs["eval"][split]["confusion"]
    print(f"{np} workers: {ended.seconds:.0f} s, {used / 1e9:.1f} GB")
