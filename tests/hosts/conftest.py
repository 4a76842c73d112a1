"""Storage with faults, and programs that start without importing everything again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hosts.disk import Disk, need_fuse
from tests.hosts.faults import FaultyRuns
from tests.hosts.programs import Programs


@pytest.fixture(scope="session")
def fuse() -> Iterator[None]:
    with need_fuse():
        yield


@pytest.fixture(scope="session")
def programs(fuse: None) -> Iterator[Programs]:
    with Programs() as started:
        yield started


@pytest.fixture(scope="session")
def faulty(programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultyRuns]:
    folder: Path = tmp_path_factory.mktemp("faulty")
    with Disk(folder / "disk", folder / "mount") as disk:
        yield FaultyRuns(disk, programs)
