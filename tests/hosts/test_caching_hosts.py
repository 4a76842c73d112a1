"""Two hosts, each of which believes for seconds that a file does not exist, as over NFS."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest

from distsent import storage
from tests import fixtures
from tests.hosts.disk import Disk
from tests.hosts.faults import job
from tests.hosts.programs import Ended, Programs
from tests.launcher import free_port


@pytest.fixture
def shared(tmp_path: Path, fuse: None) -> Path:
    """A model and a dataset in the folder that the hosts share."""
    fixtures.model(tmp_path / "shared" / "model")
    fixtures.corpus(tmp_path / "shared" / "data", validation=6, test=12)
    return tmp_path / "shared"


def train(programs: Programs, shared: Path, absent: float, appears: float) -> list[Ended]:
    """Train on two hosts, where `absent` is how long each caches that there is no such file."""
    place = shared.parent / "storage"
    place.mkdir()
    port = str(free_port())
    mounts = [shared.parent / f"host-{rank}" for rank in range(2)]
    with Disk(shared, mounts[0], absent=absent), Disk(shared, mounts[1], absent=absent):
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
        started = [
            programs.start(
                "train", *job(place), f"data.store={place}/new/store", host=(mount, place),
                appears=appears, RANK=str(rank), HF_DATASETS_CACHE=f"{mount}-cache", **address,
            )
            for rank, mount in enumerate(mounts)
        ]  # fmt: skip
        return [programs.wait(one) for one in started]


def test_a_file_that_another_host_has_just_written_is_awaited(tmp_path: Path, fuse: None) -> None:
    shared, seconds = tmp_path / "shared", 6.0
    with Disk(shared, tmp_path / "a") as a, Disk(shared, tmp_path / "b", absent=seconds) as b:
        file = b.path / "file"
        assert not storage.is_file(file)
        (a.path / "file").touch()
        ready = partial(storage.is_file, file)
        assert not storage.appears(ready, b.path, 0), "the mistake: it is not awaited"
        assert storage.appears(ready, b.path, 60)


@pytest.mark.slow
def test_a_new_store_is_awaited_where_its_absence_is_cached(
    programs: Programs, shared: Path
) -> None:
    ended = train(programs, shared, absent=6, appears=60)
    assert [one.code for one in ended] == [0, 0], [one.output for one in ended]


@pytest.mark.slow
def test_a_store_that_never_appears_on_a_host_is_no_wrong_job(
    programs: Programs, shared: Path
) -> None:
    ended = train(programs, shared, absent=10_000, appears=2)
    assert [one.code for one in ended] == [1, 1], [one.output for one in ended]
    line = r"rank 1: .*rank 0 has this token store, but \S+ does not see it \(meta.json is missing"
    assert re.search(line, ended[0].output), ended[0].output
