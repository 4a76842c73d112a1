"""Fixtures: a SLURM cluster per test; the image, the machine of its pods, and jobs on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import image_build
import image_jobs
import pytest
import slurm_cluster
from image_cluster import Cluster
from image_machine import Machine
from slurm_cluster import leftovers, namespaces


@pytest.fixture(scope="session")
def image() -> image_jobs.Image:
    return image_build.build()


@pytest.fixture(scope="module")
def machine(image: image_jobs.Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("machine"), *image[:2])
    yield machine
    machine.close()


@pytest.fixture
def pods(
    machine: Machine, image: image_jobs.Image, tmp_path: Path
) -> Iterator[Callable[..., Cluster]]:
    """`image_jobs.make`; its pods end with the test."""
    made: list[Cluster] = []
    folders = (tmp_path / f"cluster{number}" for number in count())

    def make(*overrides: str, **keys: Any) -> Cluster:
        made.append(image_jobs.make(machine, image, next(folders), *overrides, **keys))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demo job's result without pods."""
    return image_jobs.plain_run(tmp_path_factory.mktemp("plain"), "demo", *image_jobs.TINY)


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[slurm_cluster.Cluster]:
    """A new cluster for every test. Afterwards nothing of it is left."""
    with slurm_cluster.Cluster(tmp_path / "cluster", **getattr(request, "param", {})) as cluster:
        inside = set.union(*(namespaces(host.pid) for host in cluster.hosts.values())) - namespaces(
            "self"
        )
        yield cluster
    assert len(inside) == 15
    assert leftovers(cluster.home, inside) == []
