"""docs/kubernetes.md and the manifests say what a real cluster showed.

Kubernetes 1.33.4 with mpi-operator v0.8.2, 2026-11. Each row of the table "When something fails"
names its tests in a comment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "kubernetes.md").read_text()
SEEN = "seen on Kubernetes 1.33.4"  # what no test can show
MANIFESTS = sorted((ROOT / "k8s").rglob("*.yaml"))


def table(heading: str) -> list[str]:
    """The rows of the first table below a heading."""
    below = PAGE.partition(f"\n## {heading}\n")[2]
    return re.findall(r"^\|.*\|$", below.partition("\n## ")[0], re.MULTILINE)[2:]


@pytest.mark.parametrize("row", table("When something fails"), ids=lambda row: row[2:40])
def test_each_row_about_a_failure_names_the_tests_that_show_it(row):
    comment = re.search(r"<!-- (.*) --> \|$", row)
    assert comment, f"no test, and not <!-- {SEEN} -->"
    for evidence in re.split("[,;] ", comment[1]):
        if evidence != SEEN:
            assert shows(evidence), f"no such test or case: {evidence}"


def shows(evidence: str) -> bool:
    """Whether `file.py::name` is a test, or `file.py::TABLE word` a case of a table in there."""
    file, _, name = evidence.partition("::")
    name, _, word = name.partition(" ")
    (path,) = [*(ROOT / "tests").rglob(file)]
    text = path.read_text()
    if not word:
        return name.startswith("test_") and f"\ndef {name}(" in text
    _, found, rest = text.partition(f"\n{name} = [")
    return bool(found) and word in rest.partition("\n]")[0]


# What the page said before and was wrong (may be empty), and what is right.
CORRECTED = [
    # Suspended and failed jobs have their last condition elsewhere.
    (".status.conditions[-1].type", '.status.conditions[?(@.status=="True")].type'),
    ("", "**`kubectl delete -f k8s/` deletes the namespace and the claim, and with it all runs.**"),
    ("", "New workers join after about 90 s"),
    ("", "a running or finished MPIJob ignores edits. Delete it"),
    ("", "MPIJob, its ConfigMap, Secret and Service stay until you delete the MPIJob"),
    ("", "kubectl apply -f k8s/operator/jobs-status.yaml"),
    ("", "Until all workers are ready there is no launcher, so no log"),
]


def test_the_page_says_what_is_right_on_a_cluster():
    page = " ".join(PAGE.split())
    for wrong, right in CORRECTED:
        assert not wrong or wrong not in page, wrong
        assert right in page, right


def documents() -> list[dict[str, Any]]:
    texts = [path.read_text() for path in MANIFESTS]
    return [one for text in texts for one in yaml.safe_load_all(text) if isinstance(one, dict)]


def inside(value: Any, key: str) -> list[Any]:
    """The values of a key at any depth."""
    if isinstance(value, list):
        return [found for each in value for found in inside(each, key)]
    if not isinstance(value, dict):
        return []
    return [*([value[key]] if key in value else []), *inside([*value.values()], key)]


def test_a_second_apply_finds_nothing_to_change():
    """The API server adds `protocol` to ports; a port without it would differ at each apply."""
    kinds = [one for one in documents() if one.get("kind") in ("MPIJob", "Deployment", "Service")]
    ports = [port for ports in inside(kinds, "ports") for port in ports]
    assert len(ports) > 10 and all(port.get("protocol") == "TCP" for port in ports), ports


def test_what_trains_has_folders_for_matplotlib_and_triton():
    """The root file system is read-only: Triton would not start, and GPUs lose their kernels."""
    launchers = inside([one for one in documents() if one.get("kind") == "MPIJob"], "Launcher")
    runtimes = [one for one in documents() if one.get("kind") == "TrainingRuntime"]
    pods = [launcher["template"] for launcher in launchers]
    for job in (job for jobs in inside(runtimes, "replicatedJobs") for job in jobs):
        pods += [job["template"]["spec"]["template"]]
    main = [pod["spec"]["containers"][0] for pod in pods]
    starting = [each for each in main if "serve" not in each["command"]]  # those get it by mpirun
    assert len(launchers) > 5 and len(starting) == len(launchers) + 2
    for container in starting:
        assert {"name": "MPLCONFIGDIR", "value": "/tmp/matplotlib"} in container["env"]
        assert {"name": "TRITON_CACHE_DIR", "value": "/tmp/triton"} in container["env"]
    for container in main:
        mounts = {each["mountPath"]: each.get("readOnly") for each in container["volumeMounts"]}
        assert "/tmp" in mounts and not mounts["/tmp"]


def test_kueues_objects_are_of_its_current_version():
    versions = {one.get("apiVersion", "") for one in documents()}
    assert {each for each in versions if each.startswith("kueue")} == {"kueue.x-k8s.io/v1beta2"}
