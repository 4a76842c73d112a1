"""The doctor of a cluster: each thing that a cluster may lack is one line with its fix."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from distsent.k8s.__main__ import main
from tests.kubectl_answers import RECORDED

K8S = Path(__file__).parents[2] / "k8s"
# Made answers of kubectl, by the beginning of the question.
HEALTHY = {
    "get --raw": "{}",
    "get crd": "customresourcedefinition.apiextensions.k8s.io/mpijobs.kubeflow.org",
    "get deployment": "mpioperator/mpi-operator:0.8.2, ready: 1",
    "get crd trainjobs": "trainjobs.trainer.kubeflow.org jobsets.jobset.x-k8s.io",
    "get deployment kubeflow-trainer": "trainer-controller-manager:v2.3.0, ready: 1",
    "get deployment jobset": "jobset:v0.12.0, ready: 1",
    "auth can-i": "yes",
    "get namespace": "distsent: Active",
    "get storageclass": "nfs (nfs.csi.k8s.io) ",
    "get pvc": 'shared: Bound, nfs ["ReadWriteMany"]',
    "get nodes": "8 4",
    "get localqueues": "localqueue.kueue.x-k8s.io/training",
    "get pods": "pulled,\n imdb-worker-0 ,\n imdb-worker-1 ",
    "create": "",
}
# What differs, the check that fails, a part of what was found, a part of the fix.
LACKING = [
    (
        {"get crd": "!Error from server (NotFound): mpijobs.kubeflow.org not found"},
        "MPI operator",
        "not found",
        "kubectl apply --server-side",
    ),
    (
        {"get crd": "!" + RECORDED["may not get"]},
        "MPI operator",
        'User "dev" cannot get resource',
        "ask as a user who may",
    ),
    (
        {"get deployment": "mpioperator/mpi-operator:0.8.2, ready: "},
        "MPI operator",
        "0.8.2",
        "describe pods",
    ),
    (
        {"auth can-i update jobs.batch": "!no"},
        "operator's rights",
        "can-i update jobs.batch",
        "k8s/operator/",
    ),
    (
        {"auth can-i create pods": "!no"},
        "operator's rights",
        "can-i create pods",
        "mpi-operator.yaml",
    ),
    (
        {"auth can-i delete pods": "!no"},
        "launcher's rights",
        "distsent --as system:serviceaccount:distsent:distsent-launcher",
        "k8s/evicted/grant.yaml",
    ),
    (
        {"get namespace": "!Error from server (NotFound): namespaces not found"},
        "namespace",
        "not found",
        "00-namespace",
    ),
    ({"get storageclass": ""}, "storage classes", "get storageclass", "ReadWriteMany"),
    (
        {"get pvc": 'shared: Pending, nfs ["ReadWriteMany"]'},
        "claim",
        "Pending",
        "-n distsent describe pvc shared",
    ),
    ({"get nodes": "2 2"}, "GPUs", "2 2", "than 4"),
    (
        {"get localqueues": "!error: the server doesn't have a resource type"},
        "Kueue",
        "resource type",
        "training",
    ),
    ({"get pods": "pulled, imdb-worker-0 ImagePullBackOff"}, "images", "imdb-worker-0", "registry"),
    (
        {"create": "!Error from server (Forbidden): pods are forbidden: exceeded quota"},
        "admission",
        "exceeded quota",
        "change",
    ),
]


# Of a cluster for TrainJobs.
LACKING_TRAINER = [
    ({"get crd trainjobs": "trainjobs.trainer"}, "Kubeflow Trainer", "trainjobs", "v2.3.0"),
    (
        {"get deployment kubeflow-trainer": "trainer:v2.3.0, ready: "},
        "Kubeflow Trainer",
        "v2.3.0",
        "describe pods",
    ),
    ({"get deployment jobset": "!Error (NotFound)"}, "JobSet", "NotFound", "describe pods"),
    ({"create": "!Error: pods are forbidden: quota"}, "admission", "quota", "change"),
]


@pytest.fixture
def answer(tmp_path, monkeypatch):
    """Let kubectl answer from a table; an answer that begins with ! is a failure."""
    program, table = tmp_path / "bin" / "kubectl", tmp_path / "table.json"
    program.parent.mkdir()
    program.write_text(
        f"#!{sys.executable} -S\nimport json, sys\nasked = ' '.join(sys.argv[1:])\n"
        f"table = json.load(open({str(table)!r}))\n"
        "text = max((each for each in table if asked.startswith(each)), key=len)\n"
        "said = table[text]\nif said[:1] != '!': print(said); sys.exit(0)\n"
        "print(said[1:], file=sys.stdout if said == '!no' else sys.stderr); sys.exit(1)\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return lambda changes: table.write_text(json.dumps(HEALTHY | changes))


@pytest.fixture
def folder(tmp_path):
    """The manifests, with GPUs, a queue, and a launcher that deletes evicted workers."""
    folder = tmp_path / "k8s"
    folder.mkdir()
    for path in K8S.glob("*.yaml"):
        text = path.read_text().replace(
            'limits: {cpu: "4",', 'limits: {nvidia.com/gpu: 4, cpu: "4",'
        )
        text = text.replace("launch, --]", "launch, --delete-evicted, --]")
        token = "automountServiceAccountToken: false"
        text = text.replace(token, "serviceAccountName: distsent-launcher", 1)
        label = "    app.kubernetes.io/name: distsent\nspec"
        text = text.replace(label, f"    kueue.x-k8s.io/queue-name: training\n{label}")
        (folder / path.name).write_text(text)
    return folder


def test_a_healthy_cluster_passes(answer, folder, capsys):
    answer({})
    assert main(["doctor", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "fail" not in said and "1 MPIJobs would be admitted" in said
    assert said.count("operator's rights") == 4 and "nfs.csi.k8s.io" in said


def test_a_healthy_cluster_for_trainjobs_is_not_asked_about_the_mpi_operator(answer, capsys):
    answer({"get crd": "!no MPIJob", "auth can-i": "!no"})
    assert main(["doctor", str(K8S / "trainjob")]) == 0
    said = capsys.readouterr().out
    assert "2 TrainingRuntimes would be admitted" in said and "MPI operator" not in said


def test_each_thing_that_is_lacking_is_a_line_with_its_fix(answer, folder, capsys):
    cases = [(folder, *case) for case in LACKING]
    cases += [(K8S / "trainjob", *case) for case in LACKING_TRAINER]
    for where, changes, what, found, fix in cases:
        answer(changes)
        assert main(["doctor", str(where)]) == 1
        lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("fail")]
        fits = [line for line in lines if line.split("  ")[1].strip() == what]
        assert fits and found in fits[0] and fix in fits[0].split("->")[1], (changes, lines)
        assert all(line in fits for line in lines), (changes, lines)
