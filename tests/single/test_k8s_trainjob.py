"""TrainJobs: what Job and JobSet make of exit codes, and how `lint` reads runtimes."""

from __future__ import annotations

import re

import pytest

from distsent.exit_policy import decide
from distsent.k8s.cluster import objects
from distsent.k8s.lint import lint, read_files
from distsent.k8s.trainer import jobset_rules, pod_failure_policy
from tests.manifests import K8S, MPI, RUNTIMES, changed

# As the Job controller writes them (Kubernetes 1.33.4).
POD = "distsent/demo-node-0-0-x7k2p"
EXITED = f"Container {{}} for pod {POD} failed with exit code {{}} matching {{}} rule at index {{}}"
DISRUPTED = f"Pod {POD} has condition {{}} matching {{}} rule at index {{}}"
COUNTS = "RestartJobSet"  # JobSet's own, where no rule fits


def action_after(code: int, *conditions: str) -> str:
    """What a JobSet does after a pod's end, by the rules that the runtimes have."""
    for index, rule in enumerate(pod_failure_policy()["rules"]):
        if rule.get("onExitCodes", {"values": ()})["values"].count(code):
            name = rule["onExitCodes"]["containerName"]
            return jobset_action(EXITED.format(name, code, rule["action"], index))
        for pattern in rule.get("onPodConditions", ()):
            if pattern["type"] in conditions:
                return jobset_action(DISRUPTED.format(pattern["type"], rule["action"], index))
    return COUNTS


def jobset_action(message: str) -> str:
    for rule in jobset_rules():
        assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
        if any(re.search(pattern, message) for pattern in rule["onJobFailureMessagePatterns"]):
            return str(rule["action"])
    return COUNTS


def test_a_jobset_does_what_the_exit_policy_decides():
    wanted = {"give_up": "FailJobSet", "requeue": "RestartJobSetAndIgnoreMaxRestarts"}
    for code in range(1, 256):
        assert action_after(code) == wanted.get(decide(code).action, COUNTS), code
    assert [action_after(code) for code in (2, 3)] == ["FailJobSet"] * 2
    assert action_after(75) == "RestartJobSetAndIgnoreMaxRestarts"


def test_disruptions_are_not_counted_but_evictions_by_the_kubelet_are():
    for code in (137, 143, 1):
        assert action_after(code, "DisruptionTarget") == "RestartJobSetAndIgnoreMaxRestarts"
        assert action_after(code) == COUNTS, "the kubelet sets no condition"
    # The job is wrong, whatever else happened to the pod.
    assert action_after(2, "DisruptionTarget") == "FailJobSet"


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
    runtime = read_files([K8S / "trainjob" / RUNTIMES]).manifests[0]
    made = objects(runtime)
    assert [one["kind"] for one in made] == ["Job", "Pod"] * 2
    for one in made:
        assert one["metadata"]["generateName"].startswith("distsent-mpi-")
        assert one["metadata"]["namespace"] == "distsent"
    assert all(one["spec"]["restartPolicy"] == "Never" for one in made if one["kind"] == "Pod")
    assert all("podFailurePolicy" in one["spec"] for one in made if one["kind"] == "Job")
