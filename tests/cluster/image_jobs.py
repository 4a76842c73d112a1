"""Jobs that train in pods, and the same jobs without pods."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import image_machine
import pytest
from image_cluster import Cluster
from image_machine import ROOT, Machine
from image_pods import load

MARKS = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(3600)]
if reason := image_machine.missing():
    MARKS.append(pytest.mark.skip(reason=reason))

# A small demo job. Both workers get one thread each, as in a plain run on two cores: from the CPU
# limit of their pods or, where no cgroups can be made, from a variable.
TINY = ["train.max_steps=60", "checkpoint.every_steps=10", "log.every=1", "eval.every=30"]
THREADS = {"name": "OMP_NUM_THREADS", "value": "1"}
CPUS = "1"
WORKERS = 2

Image = tuple[Path, str, float]  # podman's storage, name, seconds that building took


def make(
    machine: Machine,
    image: Image,
    folder: Path,
    *overrides: str,
    name: str = "demo",
    base: Sequence[str] = TINY,
    change: Callable[[dict[str, Any]], None] = lambda job: None,
) -> Cluster:
    """The pods of a manifest with two workers, after overriding keys and changing the manifest."""
    files = {"imdb": ("30-imdb-job.yaml", "40-imdb.yaml")}.get(name, (f"jobs/{name}.yaml",))
    documents: dict[tuple[str, str], dict[str, Any]] = {}
    for file in files:
        documents |= copy.deepcopy(load(ROOT / "k8s" / file))
    job = documents["MPIJob", name]
    roles = job["spec"]["mpiReplicaSpecs"]
    roles["Worker"]["replicas"] = WORKERS
    launcher = roles["Launcher"]["template"]["spec"]["containers"][0]
    launcher["args"][launcher["args"].index("-np") + 1] = str(
        WORKERS * job["spec"]["slotsPerWorker"]
    )
    launcher["args"] += merged(*base, *overrides)
    worker = roles["Worker"]["template"]["spec"]["containers"][0]
    worker["resources"]["limits"]["cpu"] = CPUS
    launcher["env"] += [] if machine.has_limits else [THREADS]
    change(job)
    return Cluster(machine, image[1], folder, job, documents["ConfigMap", f"{name}-job"])


def shorten_keepalive(container: dict[str, Any]) -> None:
    """Let mpirun notice a silent node after 5 seconds."""
    seconds = {"time": "3", "intvl": "1", "probes": "2"}
    for variable in container.get("env", []):
        name = variable["name"].removeprefix("OMPI_MCA_oob_tcp_keepalive_")
        variable["value"] = seconds.get(name, variable["value"])


def merged(*overrides: str) -> list[str]:
    """Of several overrides of one key only the last."""
    return [*{word.partition("=")[0]: word for word in overrides}.values()]


def plain_run(folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    """The result of the same job without pods. Later overrides win."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PATH": f"{sys.prefix}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    words = [f"{sys.prefix}/bin/horovodrun", "-np", str(WORKERS)]
    words += [sys.executable, "-m", "distsent.train"]
    words += [str(ROOT / f"jobs/{name}.toml"), f"run.dir={folder}", *merged(*overrides)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads((folder / name / "result.json").read_text())


def assert_same_training(result: dict[str, Any], plain: dict[str, Any]) -> None:
    """Assert the same scores, and the same bits in the weights."""
    assert result["status"] == "finished" and result["world_size"] == WORKERS
    assert result["steps"] == plain["steps"]
    for split, scores in plain["eval"].items():
        for name in ("n", "accuracy", "f1", "confusion"):
            assert result["eval"][split][name] == scores[name], (split, name)
        assert result["eval"][split]["loss"] == pytest.approx(scores["loss"], rel=1e-5)
    assert result["weights_sha256"] == plain["weights_sha256"]
