"""The lint of manifests: for each rule a manifest that breaks it is found, with its line."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from distsent.errors import UserError
from distsent.k8s.lint import RULES, lint
from distsent.k8s.rules import FIELD_RULES
from distsent.k8s.schema import quantity, read_definitions
from tests.manifests import CLAIM, CONFIG, JOB, K8S, MPI, NET, RUNTIMES, TB, TORCH, changed

SCHEMA = {"yaml", "kind", "field", "type", "value", "required", "duplicate", "kustomize"}

# rule, file, text, its replacement, a part of the line of the finding, a part of its message
BREAKS = [
    ("yaml", JOB, "kind: MPIJob", "kind: [MPIJob", None, ""),
    ("yaml", JOB, "  slotsPerWorker: 1", "  slotsPerWorker: 1\n  slotsPerWorker: 2",
     "slotsPerWorker: 2", "a second time"),
    ("yaml", CLAIM, "apiVersion: v1", "- apiVersion: v1\n---\napiVersion: v1", "- apiVersion",
     "is a mapping"),
    ("kind", JOB, "kind: MPIJob", "kind: MPIjob", "kind: MPIjob",
     "did you mean kubeflow.org/v2beta1 MPIJob?"),
    ("kind", JOB, "v2beta1", "v1", "kubeflow.org/v1", "kubeflow.org/v2beta1"),
    ("field", JOB, "slotsPerWorker", "slotsPerWorkers", "slotsPerWorkers",
     "did you mean slotsPerWorker?"),
    ("field", TB, "httpGet: {path: /,", "httpGet: {pth: /,", "pth", "did you mean path?"),
    ("type", JOB, "backoffLimit: 6", 'backoffLimit: "6"', "backoffLimit", "a whole number"),
    ("type", JOB, 'value: "10"', "value: 10", "keepalive_time", "in quotes"),
    ("disk", JOB, "emptyDir: {sizeLimit: 4Gi}", "emptyDir: {sizeLimit: 500Mi}", "volumes:",
     "/tmp needs a sizeLimit of 1Gi"),
    ("disk", JOB, "HF_HOME, value: /shared/huggingface", "HF_HOME, value: /tmp/huggingface",
     "volumes:",
     "/tmp/huggingface needs a sizeLimit of 10Gi"),
    ("disk", JOB, 'limits: {cpu: "4",', 'limits: {ephemeral-storage: 2Gi, cpu: "4",', "volumes:",
     "less than the sizeLimits"),
    ("keepalive", JOB, 'keepalive_time, value: "10"', 'keepalive_time, value: "30"', "env:",
     "takes 45 s (30 + 3 x 5), more than half of run.stall_seconds = 60"),
    ("keepalive", JOB, "- run.dir=/shared/runs",
     "- run.dir=/shared/runs\n                - run.stall_seconds=40",
     "env:", "run.stall_seconds = 40"),
    ("keepalive", JOB, "OMPI_MCA_oob_tcp_keepalive_time", "OMPI_MCA_other", "env:", "takes 315 s"),
    ("type", JOB, "memory: 512Mi", "memory: 512MB", "512MB", "a quantity"),
    ("type", TB, "ports:\n            - {name: http, containerPort: 6006, protocol: TCP}",
     "ports: {name: http}",
     "ports: {", "must be a list"),
    ("type", TB, "labels:\n    app.kubernetes.io/name: tensorboard\nspec", "labels: none\nspec",
     "labels: none", "must be a mapping"),
    ("value", JOB, "WaitForWorkersReady", "WaitForWorkerReady", "WaitForWorkerReady", "AtStartup"),
    ("value", JOB, "cleanPodPolicy: Running", "cleanPodPolicy: running", "running",
     "None, Running, All"),
    ("required", CLAIM, "  accessModes: [ReadWriteMany]\n", "", "spec:", "accessModes is missing"),
    ("launcher-replicas", JOB, "replicas: 1\n", "replicas: 2\n", "replicas: 2", "must be 1"),
    ("worker-replicas", JOB, "      replicas: 4\n", "", "Worker:", "1 or more"),
    ("pod-name", JOB, "name: imdb\n", "name: 2nd-imdb\n", "name: 2nd-imdb", "2nd-imdb-worker-3"),
    ("pod-name", JOB, "name: imdb\n", f"name: {'a' * 55}\n", "name: aaaa", "63"),
    ("slots", JOB, 'limits: {cpu: "4", memory: 8Gi}',
     'limits: {cpu: "4", memory: 8Gi, nvidia.com/gpu: 2}', "slotsPerWorker", "2 GPUs"),
    ("slots", JOB, "slotsPerWorker: 1", "slotsPerWorker: 0", "slotsPerWorker", "1 or more"),
    ("launcher-gpu", JOB, 'limits: {cpu: "1", memory: 1Gi}',
     'limits: {cpu: "1", memory: 1Gi, nvidia.com/gpu: 1}', "resources:", "cannot use"),
    ("gloo", JOB, "- horovodrun\n", "- horovodrun\n                - --gloo\n", "args:",
     "--gloo: over Gloo no stop request reaches the workers: leave it out"),
    ("gloo", MPI, "[horovodrun,", "[horovodrun, --host-discovery-script=./hosts.sh,", "args:",
     "use --elastic of python -m distsent.k8s launch"),
    ("processes", JOB, '- "4"\n', '- "8"\n', "args:",
     "-np 8, but 4 workers x 1 slots are 4 processes"),
    ("processes", JOB, '- "4"\n', '- many\n', "args:", "-np many, but"),
    ("processes", JOB, '- horovodrun\n                - -np\n                - "4"\n', '- env\n',
     "args:", "without horovodrun all runs in the launcher"),
    ("hostfile", JOB, "                - --hostfile\n                - /etc/mpi/hostfile\n", "",
     "args:", "all runs in the launcher"),
    ("duplicate", JOB, "- {name: tmp, mountPath: /tmp}",
     "- {name: tmp, mountPath: /tmp}\n                - {name: tmp, mountPath: /tmp}",
     "name: tmp", "second"),
    ("managed-by", JOB, "  runPolicy:\n", "  runPolicy:\n    managedBy: me\n", "managedBy",
     "mpi-operator"),
    ("operator", JOB, "- {name: HOME, value: /home/mpiuser}", "- {name: K_MPI_JOB_ROLE, value: a}",
     "K_MPI_JOB_ROLE", "leave it out"),
    ("containers", JOB, "          containers:\n            - name: worker\n",
     "          initContainers: [{name: worker, image: a:1}]\n          containers:\n"
     "            - name: worker\n",
     "- name: worker", "init container"),
    ("open-mpi", JOB, "mpiImplementation: OpenMPI", "mpiImplementation: MPICH", "MPICH",
     "which the image has"),
    ("ssh-path", JOB, "  sshAuthMountPath: /home/mpiuser/.ssh\n", "", "spec:", "not in /root/.ssh"),
    ("ready", JOB, "                tcpSocket: {port: ssh}",
     "                tcpSocket: {port: 22}", "- name: worker", "2222"),
    ("ready", JOB, "  launcherCreationPolicy: WaitForWorkersReady\n", "", "spec:",
     "WaitForWorkersReady"),
    ("clean-up", JOB, "    cleanPodPolicy: Running\n", "", "runPolicy:", "must be Running"),
    ("limits", JOB, "    activeDeadlineSeconds: 604800\n", "", "runPolicy:",
     "activeDeadlineSeconds"),
    ("restart", JOB, "replicas: 1\n      restartPolicy: OnFailure",
     "replicas: 1\n      restartPolicy: Never", "restartPolicy: Never", "OnFailure"),
    ("grace", JOB, "terminationGracePeriodSeconds: 180", "terminationGracePeriodSeconds: 20",
     "PeriodSeconds: 20", "too short"),
    ("grace", JOB, '--grace, "150"', '--grace, "200"', "--grace", "less than"),
    ("shm", JOB, "emptyDir: {medium: Memory, sizeLimit: 2Gi}", "emptyDir: {}", "volumes:",
     "medium: Memory"),
    ("shm", JOB, "emptyDir: {medium: Memory, sizeLimit: 2Gi}",
     "emptyDir: {medium: Memory, sizeLimit: 8Gi}", "volumes:", "leaves none of the limit"),
    ("worker-env", JOB, "              ports:\n",
     "              env: [{name: HF_HOME, value: /x}]\n              ports:\n", "env: [",
     "HF_HOME"),
    ("gang", JOB, "  runPolicy:\n", "  runPolicy:\n    schedulingPolicy: {minAvailable: 4}\n",
     "schedulingPolicy", "5 pods"),
    ("queue", JOB, "  labels:\n", "  labels:\n    kueue.x-k8s.io/queue-name: training\n", "labels:",
     "suspend: true"),
    ("mesh", JOB, 'sidecar.istio.io/inject: "false"', 'x: "false"', "annotations:",
     "sidecar.istio.io/inject"),
    ("same-image", JOB, "- name: worker\n              image: distsent:0.1.0",
     "- name: worker\n              image: distsent:0.2", "0.2", "launcher's"),
    ("image", TB, "image: distsent:0.1.0", "image: distsent", "image: distsent", "name a version"),
    ("resources", TB, 'limits: {cpu: "1", memory: 1Gi}', 'limits: {cpu: "1"}', "limits:",
     "limits.memory is missing"),
    ("resources", TB, "requests: {cpu: 100m,", "requests: {cpu: 1500m,", "resources:",
     "requests more cpu"),
    ("security", TB, "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot: false",
     "runAsNonRoot"),
    ("security", JOB, "runAsUser: 1000", "runAsUser: 0", "runAsUser: 0", "must be 1000"),
    ("security", TB, "drop: [ALL]", "drop: [NET_RAW]", "capabilities:", "drop ALL"),
    ("security", TB, "allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true",
     "allowPrivilegeEscalation: true", "must be false"),
    ("security", TB, "      enableServiceLinks",
     "      hostNetwork: true\n      enableServiceLinks", "hostNetwork", "the node's own"),
    ("token", TB, "      automountServiceAccountToken: false\n", "", "spec:", "must be false"),
    ("token", JOB, "launch, --]", "launch, --delete-evicted, --]", "automount", "must be true for"),
    ("exists", JOB, "launch, --]", "launch, --delete-evicted, --]", "spec:",
     "the ServiceAccount (none)"),
    ("token", JOB, "automountServiceAccountToken: false", "automountServiceAccountToken: true",
     "automount", "must be false"),
    ("token", RUNTIMES, "launch, --k", "launch, --delete-evicted, --k", None,
     "leave --delete-evicted out"),
    ("volumes", TB, "{name: tmp, mountPath: /tmp}", "{name: temp, mountPath: /tmp}", "name: temp",
     "no volume temp"),
    ("volumes", TB, "            - {name: tmp, mountPath: /tmp}\n", "", "- name: tmp",
     "nothing mounts"),
    ("ports", TB, "httpGet: {path: /, port: http}", "httpGet: {path: /, port: web}", "port: web",
     "port web"),
    ("namespace", TB, "  namespace: distsent\n", "", "metadata:", "is missing"),
    ("namespace", CLAIM, "namespace: distsent", "namespace: distsend", "namespace: distsend",
     "no manifest creates"),
    ("twice", NET, "name: clients-of-tensorboard", "name: pods-of-jobs", "name: pods-of-jobs",
     "already"),
    ("exists", JOB, "persistentVolumeClaim: {claimName: shared}",
     "persistentVolumeClaim: {claimName: share}", "- name: shared", "PersistentVolumeClaim share"),
    ("exists", JOB, "configMap: {name: imdb-job}", "configMap: {name: imdb}",
     "configMap: {name: imdb}",
     "ConfigMap imdb"),
    ("shared", CLAIM, "[ReadWriteMany]", "[ReadWriteOnce]", None, "must be ReadWriteMany"),
    ("fraction", JOB, 'limits: {cpu: "4",', "limits: {cpu: 4.5,", "resources:", "needs quotes"),
    ("fraction", RUNTIMES, "limits: {cpu: '4',", "limits: {cpu: 4.5,", "resources:", "quotes"),
    ("keys", CONFIG, "\ndata:\n", "\nbinaryData: {imdb.toml: eHl6}\ndata:\n", "binaryData",
     "imdb.toml is in data, too"),
    ("variables", JOB, "HF_HOME, value: /shared", "HF_HOME, value: $(SHARED)", "HF_HOME",
     "$(SHARED) is not set before"),
    ("run-folder", JOB, "                - run.dir=/shared/runs\n", "", "args:", "is missing"),
    ("run-folder", JOB, "run.dir=/shared/runs", "run.dir=/tmp/runs", "volumeMounts:",
     "is not on a claim"),
    ("run-folder", JOB, "{name: shared, mountPath: /shared}",
     "{name: shared, mountPath: /shared, readOnly: true}", "volumeMounts:", "read-only"),
    ("job-file", JOB, "- /jobs/imdb.toml", "- /jobs/imbd.toml", "volumes:", "has no imbd.toml"),
    ("job-file", JOB, "- /jobs/imdb.toml", "- /job/imdb.toml", "volumeMounts:",
     "nothing is mounted"),
    ("job-file", JOB, "- run.dir=/shared/runs",
     "- run.dir=/shared/runs\n                - optim.lrr=1", "args:", "optim.lrr"),
    ("job-file", CONFIG, "batch_size = 16", "batch_size = 0", None, "batch_size"),
    ("size", CONFIG, "data:\n  imdb", f"data:\n  more: {'x' * 262144}\n  imdb", "name: imdb-job",
     "use kubectl apply --server-side"),
    ("selector", TB, "selector:\n    matchLabels:\n      app.kubernetes.io/name: tensorboard",
     "selector:\n    matchLabels:\n      app.kubernetes.io/name: tb", "selector:", "its own pods"),
    ("selector", TB, "spec:\n  selector:\n    app.kubernetes.io/name: tensorboard",
     "spec:\n  selector:\n    app.kubernetes.io/name: tb", "selector:", "selects no pod"),
    ("selector", TB, "targetPort: http", "targetPort: web", "- {name: http", "no port web"),
    ("network", NET, "podSelector: {}", "podSelector: {matchLabels: {a: b}}", None, None),
    # TrainJobs and their runtimes.
    ("field", MPI, "numNodes", "numNode", "numNode:", "did you mean numNodes?"),
    ("value", RUNTIMES, "action: FailJobSet", "action: FailJobset", "FailJobset", "FailJobSet"),
    ("field", RUNTIMES, "podFailurePolicy", "podFailPolicy", "podFailPolicy", "podFailurePolicy?"),
    ("pod-name", MPI, "name: mpi\n", f"name: {'a' * 45}\n", "name: aaa",
     "a-launcher-0-0-xxxxx is not"),
    ("nodes", TORCH, "    numNodes: 4\n", "", "trainer:", "must be given"),
    ("slots", TORCH, "    numProcPerNode: 1\n", "", "trainer:", "would count CPUs"),
    ("slots", RUNTIMES, "limits: {cpu: '4', memory: 8Gi}",
     "limits: {cpu: '4', memory: 8Gi, nvidia.com/gpu: 2}", None,
     "TrainJob mpi: numProcPerNode is 1, but a worker has 2 GPUs"),
    ("slots", TORCH, "    args:", "    resourcesPerNode: {limits: {nvidia.com/gpu: 4}}\n    args:",
     "numProcPerNode", "has 4 GPUs"),
    ("processes", MPI, "[horovodrun,", "[horovodrun, -np, '3',", "args:",
     "-np 3, but 4 workers x 1 slots are 4 processes"),
    ("processes", MPI, "[horovodrun,", "[env,", "args:", "without horovodrun"),
    ("hostfile", MPI, "--hostfile, /etc/mpi/hostfile, ", "", "args:", "all runs in the launcher"),
    ("hostfile", RUNTIMES, "launch, --", "launch, --elastic, /etc/mpi/discover_hosts.sh, --", None,
     "TrainJob mpi: a TrainJob has no script"),
    ("operator", TORCH, "    args:", "    env: [{name: PET_NNODES, value: '2'}]\n    args:",
     "PET_NNODES", "leave it out"),
    ("operator", RUNTIMES, "{name: HOME,", "{name: OMPI_MCA_plm_rsh_args,", "OMPI_MCA_plm",
     "leave it out"),
    ("operator", RUNTIMES, "- {name: tmp, mountPath: /tmp}",
     "- {name: tmp, mountPath: /home/mpiuser/.ssh/}", ".ssh", "its own volume"),
    ("queue", MPI, "labels: {", "labels: {kueue.x-k8s.io/queue-name: training, ", "labels:",
     "must have suspend: true"),
    ("same-image", MPI, "    args:", "    image: distsent:0.2\n    args:", None,
     "the launcher's image, distsent:0.2"),
    ("launcher-only", MPI, "    args:",
     "    resourcesPerNode: {limits: {cpu: 2, memory: 1Gi}}\n    args:", "resourcesPerNode",
     "the launcher alone"),
    ("runtime", MPI, "kind: TrainingRuntime, ", "", "runtimeRef", "must be given"),
    ("exists", MPI, "name: distsent-mpi", "name: other", "runtimeRef", "TrainingRuntime other"),
    ("exists", RUNTIMES, "claimName: shared", "claimName: none", None, "VolumeClaim none"),
    ("managed-by", MPI, "spec:\n", "spec:\n  managedBy: me\n", "managedBy", "trainjob-controller"),
    ("policy", RUNTIMES, "    torch: {}\n", "", "mlPolicy:", "must have mpi or torch"),
    ("launcher-replicas", RUNTIMES, "numNodes: 1", "numNodes: 2", "mlPolicy:", "must be 1 for mpi"),
    ("ssh-path", RUNTIMES, ", sshAuthMountPath: /home/mpiuser/.ssh", "", "mpi:", "must be /home"),
    ("open-mpi", RUNTIMES, "AsNode: false", "AsNode: true", "AsNode: true", "must be false"),
    ("limits", RUNTIMES, "        maxRestarts: 6\n", "", "failurePolicy:", "maxRestarts"),
    ("restart", RUNTIMES, "BlockingRecreate", "Recreate", "Recreate", "must be BlockingRecreate"),
    ("restart", RUNTIMES, "restartPolicy: Never", "restartPolicy: OnFailure", "OnFailure", "Never"),
    ("restart", RUNTIMES, "backoffLimit: 0", "backoffLimit: 3", "backoffLimit: 3", "must be 0"),
    ("clean-up", RUNTIMES, "Jobs: [launcher]", "Jobs: [node]", "spec:", "[launcher] for mpi"),
    ("dns", RUNTIMES, "      ttlSecondsAfterFinished: 604800\n",
     "      network: {enableDNSHostnames: false}\n", "network", "must be true"),
    ("dns", RUNTIMES, "backoffLimit: 0\n",
     "backoffLimit: 0\n            completionMode: NonIndexed\n", "NonIndexed", "must be Indexed"),
    ("job-name", RUNTIMES, "- name: launcher", "- name: start", "name: start", "node or launcher"),
    ("container-name", RUNTIMES, "- name: node\n                  image",
     "- name: main\n                  image", "name: main", "must be node"),
    ("fs-group", RUNTIMES, "                  fsGroup: 1000\n", "", "securityContext:", "1000"),
    ("mesh", RUNTIMES, "sidecar.istio.io/inject: 'false'", "a: 'b'", "annotations:", "sidecar"),
    ("grace", RUNTIMES, "PeriodSeconds: 180", "PeriodSeconds: 30", "Seconds: 30", "too short"),
    ("grace", RUNTIMES, "--grace, '150'", "--grace, '200'", "--grace", "less than"),
    ("failure-policy", RUNTIMES, "values: [2, 3]", "values: [2]", "- name: node",
     "node: exit code 3 leads to RestartJobSet, must lead to FailJobSet"),
    ("failure-policy", RUNTIMES, "(75)", "(7|5)", "- name: node",
     "exit code 75 leads to RestartJobSet, must lead to RestartJobSetAndIgnoreMaxRestarts"),
    ("failure-policy", RUNTIMES, "matching, DisruptionTarget]", "matching]", "- name: node",
     "DisruptionTarget leads to RestartJobSet"),
    ("failure-policy", RUNTIMES, "containerName: node", "containerName: other", "- name: node",
     "exit code 2 leads to RestartJobSet"),
    ("failure-policy", RUNTIMES, "- name: saved",
     "- name: saved\n          targetReplicatedJobs: [node]",
     "- name: launcher", "launcher: exit code 75 leads to RestartJobSet"),
    ("failure-policy", RUNTIMES, "exit code (2|3) matching", "exit code (2|3 matching",
     "- name: node", "exit code 2 leads to RestartJobSet"),
    ("failure-policy", RUNTIMES, "FailJob\n                onE", "Ignore\n                onE",
     "- name: node", "exit code 2 leads to Ignore"),
    ("parent", RUNTIMES, "[python, -m, distsent.launch]", "[torchrun]", None,
     "TrainJob torch: must start with python -m distsent.launch"),
    ("parent", RUNTIMES, ", --keep-workers", "", None, "launch --keep-workers"),
    ("left", RUNTIMES, ", --left, '75'", "", "command:", "--left 75"),
    ("ready", RUNTIMES, "status: Ready", "status: Complete", "dependsOn:", "dependsOn must be"),
    ("ready", RUNTIMES, "tcpSocket: {port: ssh}", "tcpSocket: {port: 22}", "- name: node", "2222"),
    ("ancestor", RUNTIMES, "trainjob-ancestor-step: trainer", "x: y", "- name: launcher",
     "the job launcher alone needs the label"),
    ("run-folder", TORCH, ", run.dir=/shared/runs", "", "args:", "is missing"),
    ("job-file", MPI, "/jobs/imdb.toml", "/jobs/none.toml", None, "jobs has no none.toml"),
    ("shm", RUNTIMES, "medium: Memory, ", "", "volumes:", "medium: Memory"),
    ("keepalive", RUNTIMES, "keepalive_time, value: '10'", "keepalive_time, value: '30'", "env:",
     "takes 45 s"),
    ("security", RUNTIMES, "runAsUser: 1000", "runAsUser: 0", "runAsUser: 0", "must be 1000"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "file", "before", "after", "line", "says"),
    BREAKS,
    ids=[f"{i}-{b[0]}" for i, b in enumerate(BREAKS)],
)
def test_a_broken_manifest_is_found_with_its_line(tmp_path, rule, file, before, after, line, says):
    if rule == "network":  # all three policies must be gone for a pod to be open
        folder = changed(tmp_path, file, before, after)
        text = (
            (folder / file)
            .read_text()
            .replace("training.kubeflow.org/job-name", "another")
            .replace("/name: tensorboard", "/name: other")
        )
        (folder / file).write_text(text)
        says = "which pods may connect"
    else:
        folder = changed(tmp_path, file, before, after)
    findings = [finding for finding in lint([folder])[0] if finding.rule == rule]
    assert findings, f"{rule} not found"
    found = next((finding for finding in findings if says in finding.message), None)
    assert found, [str(finding) for finding in findings]
    if line is not None:
        assert found.file == str(folder / file)
        assert line in (folder / file).read_text().splitlines()[found.line - 1]


def test_every_rule_has_a_manifest_that_breaks_it():
    names = {rule[0] for some in FIELD_RULES.values() for rule in some}
    for function in RULES:
        names |= set(
            re.findall(r'yield "([a-z-]+)", ', inspect.getsource(inspect.getmodule(function)))
        )
    assert names | SCHEMA == {entry[0] for entry in BREAKS} | {"kustomize"}


def test_the_projects_manifests_have_no_findings():
    if shutil.which("kubectl") is None and shutil.which("kustomize") is None:
        pytest.skip("overlays need kubectl or kustomize")
    findings, files = lint([K8S])
    assert not findings and files > 30


def test_each_job_can_be_checked_on_its_own():
    for path in sorted((K8S / "jobs").glob("*.yaml")):
        assert lint([path]) == ([], 2)


def test_elastic_bounds(tmp_path):
    folder = changed(
        tmp_path,
        JOB,
        "launch, --]",
        'launch, --elastic, /etc/mpi/discover_hosts.sh, --min-np, "9", --slots, "2", --]',
    )
    said = [str(finding) for finding in lint([folder])[0]]
    assert any("--min-np 9 is more than --max-np 4" in line for line in said)
    assert any("--slots 2, but slotsPerWorker is 1" in line for line in said)
    text = (folder / JOB).read_text()
    (folder / JOB).write_text(
        text.replace("/etc/mpi/discover_hosts.sh", "/hosts.sh")
        .replace('"9"', '"5"')
        .replace("--slots", "--max-np")
    )
    assert any("not /hosts.sh" in str(finding) for finding in lint([folder])[0])


def test_an_overlay_that_does_not_render_is_a_finding(tmp_path):
    if shutil.which("kubectl") is None and shutil.which("kustomize") is None:
        pytest.skip("overlays need kubectl or kustomize")
    (tmp_path / "kustomization.yaml").write_text("resources: [nowhere.yaml]\n")
    findings, _ = lint([tmp_path])
    assert [finding.rule for finding in findings] == ["kustomize"]


CRD = """
kind: CustomResourceDefinition
spec:
  group: kubeflow.org
  names: {kind: MPIJob}
  versions:
    - name: v2beta1
      schema:
        openAPIV3Schema:
          type: object
          properties:
            spec:
              type: object
              properties:
                novelty: {type: string}
                slotsPerWorker: {type: integer}
                launcherCreationPolicy: {type: string}
                runPolicy: {type: object, x-kubernetes-preserve-unknown-fields: true}
                mpiReplicaSpecs: {type: object, x-kubernetes-preserve-unknown-fields: true}
                mpiImplementation: {type: string}
                sshAuthMountPath: {x-kubernetes-int-or-string: true, anyOf: [{type: integer}]}
"""


def test_a_definition_that_the_user_names_decides_which_fields_there_are(tmp_path):
    (tmp_path / "crd.yaml").write_text(CRD)
    crds = read_definitions(str(tmp_path / "crd.yaml"))
    (tmp_path / "k8s").mkdir()
    folder = changed(tmp_path / "k8s", JOB, "  slotsPerWorker: 1", "  novelty: new")
    assert not lint([folder], crds)[0]
    assert "novelty: no such field" in str(lint([folder])[0][0])
    text = (folder / JOB).read_text()
    wrong = text.replace("novelty: new", "novelty: 1\n  noveltie: x")
    (folder / JOB).write_text(wrong.replace("WaitForWorkersReady", "WaitForWorkerReady"))
    said = [finding.message for finding in lint([folder], crds)[0]]
    assert "spec.novelty = 1: must be text (put it in quotes)" in said
    assert "spec.noveltie: no such field; did you mean novelty?" in said
    # The operator's definition accepts any text here; the allowed values are the project's own.
    assert any("must be one of AtStartup, WaitForWorkersReady" in line for line in said)


def test_the_definition_of_the_operator_finds_what_the_own_table_finds(tmp_path):
    path = Path(os.environ.get("DISTSENT_MPIJOB_CRD", ""))
    if not path.is_file():
        pytest.skip("DISTSENT_MPIJOB_CRD names no file")
    crds = read_definitions(str(path))
    assert not lint([K8S / JOB], crds)[0]
    for rule, file, before, after, _, says in BREAKS:
        if file == JOB and rule in ("field", "type", "value", "required"):
            folder = tmp_path / str(len(list(tmp_path.iterdir())))
            folder.mkdir()
            found = lint([changed(folder, file, before, after)], crds)[0]
            assert any(f.rule == rule and says in f.message for f in found), (before, after)


@pytest.mark.parametrize("text", ["kind: Pod\n", "- 1\n", "a: [\n", None])
def test_a_definition_that_cannot_be_read_is_one_line(tmp_path, text):
    if text is not None:
        (tmp_path / "crd.yaml").write_text(text)
    with pytest.raises(UserError, match=r"^--crd .*crd.yaml: ") as caught:
        read_definitions(str(tmp_path / "crd.yaml"))
    assert len(caught.value.lines) == 1 and "\n" not in caught.value.lines[0]


def test_a_cluster_without_the_definition_is_one_line(tmp_path, monkeypatch):
    program = tmp_path / "kubectl"
    program.write_text("#!/bin/sh\necho 'Error from server (NotFound)' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(UserError, match=r"^--crd cluster: .*NotFound"):
        read_definitions("cluster")
    (tmp_path / "crd.yaml").write_text(CRD)
    program.write_text(f"#!/bin/sh\ncat {tmp_path}/crd.yaml\n")
    assert list(read_definitions("cluster")) == ["kubeflow.org/v2beta1 MPIJob"]
    listed = "kind: List\nitems:\n" + "".join(f"- {one}\n" for one in two_definitions())
    (tmp_path / "crd.yaml").write_text(listed)
    kinds = ["kubeflow.org/v2beta1 MPIJob", "kubeflow.org/v2beta1 TrainJob"]
    assert list(read_definitions("cluster")) == kinds
    program.write_text("#!/bin/sh\nexit 0\n")
    with pytest.raises(UserError, match=r"^--crd cluster: no .*; is the operator installed"):
        read_definitions("cluster")


def two_definitions() -> list[str]:
    one = json.dumps(yaml.safe_load(CRD))
    return [one, one.replace("MPIJob", "TrainJob")]


def test_the_program_prints_findings_and_exits_2(tmp_path):
    folder = changed(tmp_path, JOB, "slotsPerWorker: 1", "slotsPerWorker: 0")
    done = subprocess.run(
        [sys.executable, "-m", "distsent.k8s", "lint", str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert f"{folder / JOB}:" in done.stdout and "[slots]" in done.stdout
    good = subprocess.run(
        [sys.executable, "-m", "distsent.k8s", "lint", str(K8S / CLAIM)],
        capture_output=True,
        text=True,
    )
    assert good.returncode == 0 and "no findings" in good.stderr


def test_a_missing_path_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "distsent.k8s", "lint", str(tmp_path / "x")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_quantities():
    assert [quantity(value) for value in ("500m", 2, "8Gi", "1e3", "2.5k")] == [
        0.5,
        2.0,
        8 * 2**30,
        1000.0,
        2500.0,
    ]
    assert [quantity(value) for value in ("8GB", "", None, True, "-1", [1])] == [None] * 6
