"""TrainJobs: what Job and JobSet make of exit codes, and how `lint` reads runtimes."""

from __future__ import annotations

import pytest
import yaml

from distsent.exit_policy import decide
from distsent.k8s.cluster import objects
from distsent.k8s.lint import lint, read_files
from tests.jobset import COUNTS, FAILS, SAVED, action_after
from tests.manifests import K8S, MPI, RUNTIMES, changed

RUNTIME_FILE = K8S / "trainjob" / RUNTIMES
MODELS = list(yaml.safe_load_all(RUNTIME_FILE.read_text()))


JOBS_OF = [
    (one, job["name"])
    for one in MODELS
    for job in one["spec"]["template"]["spec"]["replicatedJobs"]
]


@pytest.mark.parametrize(("runtime", "job"), JOBS_OF, ids=lambda each: str(each)[:9])
def test_a_jobset_does_what_the_exit_policy_decides(runtime, job):
    wanted = {"give_up": FAILS, "requeue": SAVED}
    for code in range(1, 256):
        action = action_after(runtime, job, code)
        assert action == wanted.get(decide(code).action, COUNTS), code
    assert [action_after(runtime, job, code) for code in (2, 3, 75)] == [FAILS, FAILS, SAVED]


@pytest.mark.parametrize(("runtime", "job"), JOBS_OF, ids=lambda each: str(each)[:9])
def test_disruptions_are_not_counted_but_evictions_for_a_limit_are(runtime, job):
    for code in (137, 143, 1):
        assert action_after(runtime, job, code, "DisruptionTarget") == SAVED
        assert action_after(runtime, job, code) == COUNTS, "the kubelet sets no condition"
    # The job is wrong, whatever else happened to the pod.
    assert action_after(runtime, job, 2, "DisruptionTarget") == FAILS


@pytest.mark.parametrize("file", [MPI, RUNTIMES])
def test_the_projects_trainjobs_and_their_copies_have_no_findings(tmp_path, file):
    assert not lint([changed(tmp_path / "k8s", file, "\n", "\n")])[0]


def test_each_trainjob_and_its_folder_can_be_checked_on_its_own():
    for folder in (K8S / "trainjob", K8S / "trainjob" / "mpi"):
        found, count = lint([folder])
        assert not found and count > 9
    assert lint([K8S / "trainjob" / "torch" / "demo.yaml"]) == ([], 1)


def test_a_runtime_of_the_cluster_is_not_checked(tmp_path):
    folder = changed(tmp_path / "k8s", MPI, "kind: TrainingRuntime", "kind: ClusterTrainingRuntime")
    assert not lint([folder])[0]


def test_a_cluster_is_asked_about_jobs_and_pods_of_a_runtime():
    runtime = read_files([RUNTIME_FILE]).manifests[0]
    made = objects(runtime)
    assert [one["kind"] for one in made] == ["Job", "Pod"] * 2
    for one in made:
        assert one["metadata"]["generateName"].startswith("distsent-mpi-")
        assert one["metadata"]["namespace"] == "distsent"
    assert all(one["spec"]["restartPolicy"] == "Never" for one in made if one["kind"] == "Pod")
    assert all("podFailurePolicy" in one["spec"] for one in made if one["kind"] == "Job")


def test_other_policies_with_the_same_outcome_are_no_finding(tmp_path):
    folder = changed(tmp_path / "k8s", RUNTIMES, "exit code (2|3) matching", "code (3|2) ")
    text = (folder / RUNTIMES).read_text()
    text = text.replace("- {type: DisruptionTarget, status: 'True'}", "- {type: DisruptionTarget}")
    (folder / RUNTIMES).write_text(text.replace("      ttlSecondsAfterFinished: 604800\n", ""))
    assert not lint([folder])[0]


@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ("tcpSocket: {port: ssh}", "tcpSocket: {port: {a: b}}", "type"),
        ("      replicatedJobs:\n", "      replicatedJobs: []\n      x:\n", "field"),
        (
            "          spec:\n            backoffLimit",
            "          x:\n            backoffLimit",
            "field",
        ),
    ],
)
def test_a_runtime_without_shape_is_a_finding_and_no_error(tmp_path, before, after, rule):
    folder = changed(tmp_path / "k8s", RUNTIMES, before, after)
    assert rule in {each.rule for each in lint([folder])[0]}
    (folder / "jobs").mkdir()
    (folder / MPI).rename(folder / "jobs" / MPI)
    lint([folder / "jobs" / MPI])  # the runtime is in a folder above
