"""Generated manifests are current; Kubernetes' schemas and kubectl accept all manifests."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate as validate
import pytest
import yaml

from distsent import __version__
from distsent.k8s.schema import definitions, known_kinds, read_definitions
from distsent.k8s.write import stale_manifests

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("*/kustomization.yaml"))
PLAIN = sorted(
    path for name in ("*.yaml", "jobs/*.yaml", "trainjob/**/*.yaml") for path in K8S.glob(name)
)
JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.toml"))
CLUSTER_WIDE = ("Namespace", "ClusterQueue", "ResourceFlavor", "PriorityClass")


def documents(text: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text) if one]


def rendered(folder: Path) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture(scope="module")
def everything() -> list[dict[str, Any]]:
    """Every document of every manifest, overlays as they render."""
    found = [one for path in PLAIN for one in documents(path.read_text())]
    if shutil.which("kubectl"):
        found += [one for folder in OVERLAYS for one in documents(rendered(folder))]
    return found


def test_generated_manifests_are_current():
    stale = stale_manifests(K8S)
    assert not stale, f"run python -m distsent.k8s write: {[str(path) for path in stale]}"


@pytest.mark.parametrize("name", JOBS)
def test_each_config_map_holds_its_job_and_that_of_trainjobs_all(name):
    job = tomllib.loads((ROOT / "jobs" / f"{name}.toml").read_text())
    for file in ("30-imdb-job" if name == "imdb" else f"jobs/{name}", "trainjob/jobs"):
        text = (K8S / f"{file}.yaml").read_text()
        config = next(one for one in documents(text) if one["kind"] == "ConfigMap")
        assert tomllib.loads(config["data"][f"{name}.toml"]) == job


@pytest.mark.parametrize("policy", ["mpi", "torch"])
def test_a_trainjob_trains_what_the_mpijob_trains(policy):
    """The same pods, size and arguments, with the parent process of its policy."""
    runtimes = documents((K8S / "trainjob/runtimes.yaml").read_text())
    runtime = next(one for one in runtimes if policy in one["spec"]["mlPolicy"])
    pods = {job["name"]: job["template"]["spec"]["template"] for job in replicated_jobs(runtime)}
    for name in JOBS:
        ours = documents((K8S / f"trainjob/{policy}/{name}.yaml").read_text())[0]
        path = K8S / ("40-imdb.yaml" if name == "imdb" else f"jobs/{name}.yaml")
        mpijob = documents(path.read_text())[-1]
        roles, trainer = mpijob["spec"]["mpiReplicaSpecs"], ours["spec"]["trainer"]
        launcher = roles["Launcher"]["template"]["spec"]["containers"][0]
        assert ours["metadata"] == mpijob["metadata"]
        assert ours["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
        assert trainer["numNodes"] == roles["Worker"]["replicas"]
        assert trainer["numProcPerNode"] == mpijob["spec"]["slotsPerWorker"]
        train = launcher["args"][launcher["args"].index("-m") :]
        assert trainer["args"][-len(train) :] == train and f"/jobs/{name}.toml" in train
        assert ("horovodrun" in trainer["args"]) == (policy == "mpi")
        worker = pods["node"]["spec"]
        for field in ("securityContext", "terminationGracePeriodSeconds"):
            assert worker[field] == roles["Worker"]["template"]["spec"][field]
        for field in ("resources", "securityContext", "volumeMounts", "image"):
            assert (
                worker["containers"][0][field]
                == (roles["Worker"]["template"]["spec"]["containers"][0][field])
            )
        env = {
            one["name"]
            for one in pods["node" if policy == "torch" else "launcher"]["spec"]["containers"][0][
                "env"
            ]
        }
        assert {one["name"] for one in launcher["env"]} - env == (
            {
                name
                for name in env ^ {one["name"] for one in launcher["env"]}
                if name.startswith("OMPI_")
            }
        )


def test_write_reports_stale_files_and_rewrites_them(tmp_path):
    for folder in ("k8s", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    job = tmp_path / "jobs" / "imdb.toml"
    job.write_text(job.read_text().replace("epochs = 5", "epochs = 6"))
    program = [sys.executable, "-m", "distsent.k8s", "write", str(tmp_path / "k8s")]
    done = subprocess.run([*program, "--check"], capture_output=True, text=True)
    assert done.returncode == 2 and "30-imdb-job.yaml differs" in done.stderr
    assert subprocess.run(program, capture_output=True).returncode == 0
    assert (
        "epochs = 6" in (tmp_path / "k8s/30-imdb-job.yaml").read_text()
        and "epochs = 6" in (tmp_path / "k8s/base/all.yaml").read_text()
    )
    assert subprocess.run([*program, "--check"], capture_output=True).returncode == 0


def test_comments_of_a_job_do_not_matter(tmp_path):
    for folder in ("k8s", "jobs"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    job = tmp_path / "jobs" / "imdb.toml"
    job.write_text("# time: 3 h\n" + job.read_text())
    assert not stale_manifests(tmp_path / "k8s")


def test_the_image_is_that_of_this_version(everything):
    images = set()
    for one in everything:
        images |= {
            container["image"]
            for template in templates(one)
            for container in template["spec"]["containers"]
        }
    assert images <= {f"distsent:{__version__}", f"distsent:{__version__}-cuda"}


def templates(one: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if one["kind"] == "MPIJob":
        yield from (role["template"] for role in one["spec"]["mpiReplicaSpecs"].values())
    elif one["kind"] == "TrainingRuntime":
        yield from (job["template"]["spec"]["template"] for job in replicated_jobs(one))
    elif one["kind"] == "Deployment":
        yield one["spec"]["template"]


def replicated_jobs(runtime: dict[str, Any]) -> list[dict[str, Any]]:
    return list(runtime["spec"]["template"]["spec"]["replicatedJobs"])


def test_built_in_kinds_are_valid_under_the_schemas_of_kubernetes(everything):
    checked = 0
    for one in everything:
        if "." in one["apiVersion"].partition("/")[0] and not one["apiVersion"].startswith(
            "networking.k8s.io"
        ):
            continue  # custom resources
        validate.validate(one, "1.33", strict=True)
        checked += 1
    for one in everything:
        for template in templates(one):
            pod = {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "x"},
                "spec": template["spec"],
            }
            validate.validate(pod, "1.33", strict=True)
            checked += 1
    for job in [
        job
        for one in everything
        if one["kind"] == "TrainingRuntime"
        for job in replicated_jobs(one)
    ]:
        whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}}
        validate.validate(whole | {"spec": job["template"]["spec"]}, "1.33", strict=True)
    assert checked > 40


def test_mpijobs_are_valid_under_the_operators_schema(everything):
    """DISTSENT_MPIJOB_CRD: kubeflow.org_mpijobs.yaml of mpi-operator."""
    path = Path(os.environ.get("DISTSENT_MPIJOB_CRD", ""))
    if not path.is_file():
        pytest.skip("DISTSENT_MPIJOB_CRD names no file")
    definition = read_definitions(str(path))["kubeflow.org/v2beta1 MPIJob"]
    validator = jsonschema.Draft202012Validator({**definition, "$defs": definitions()})
    jobs = [one for one in everything if one["kind"] == "MPIJob"]
    assert len(jobs) > len(JOBS)
    for job in jobs:
        assert not [each.message for each in validator.iter_errors(job)]
    broken = json.loads(json.dumps(jobs[0]))
    broken["spec"]["runPolicy"]["backOffLimit"] = 1
    assert not validator.is_valid(broken)


def test_trainjobs_are_valid_under_the_trainers_schemas(everything):
    """DISTSENT_TRAINER_CRDS: the folder of trainer.kubeflow.org_*.yaml of Kubeflow Trainer."""
    folder = Path(os.environ.get("DISTSENT_TRAINER_CRDS", ""))
    checked = 0
    for file in ("trainjobs", "trainingruntimes"):
        path = folder / f"trainer.kubeflow.org_{file}.yaml"
        if not path.is_file():
            pytest.skip("DISTSENT_TRAINER_CRDS names no folder of definitions")
        ((name, definition),) = read_definitions(str(path)).items()
        validator = jsonschema.Draft202012Validator({**definition, "$defs": definitions()})
        for one in everything:
            if f"{one['apiVersion']} {one['kind']}" == name:
                assert not [each.message for each in validator.iter_errors(one)]
                checked += 1
        broken = json.loads(json.dumps(one_of(everything, name)))
        broken["spec"]["trainr"] = {}
        assert not validator.is_valid(broken)
    assert checked == 2 * len(JOBS) + 2


def one_of(documents: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(one for one in documents if f"{one['apiVersion']} {one['kind']}" == name)


class Server(http.server.BaseHTTPRequestHandler):
    """What kubectl needs of an API server in a dry run: the known kinds, and no objects."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        groups: dict[str, set[str]] = {}
        for each in known_kinds():
            version = each.split()[0]
            group, _, name = version.rpartition("/")
            groups.setdefault(group, set()).add(name)
        if path == "api":
            return self.answer({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            listed = [
                {
                    "name": group,
                    "versions": [group_version(group, name) for name in sorted(names)],
                    "preferredVersion": group_version(group, min(names)),
                }
                for group, names in groups.items()
                if group
            ]
            return self.answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
        version = path.removeprefix("apis/").removeprefix("api/")
        resources = [
            {
                "name": plural(kind),
                "singularName": kind.lower(),
                "kind": kind,
                "namespaced": kind not in CLUSTER_WIDE,
                "verbs": ["get", "create", "patch"],
            }
            for known, kind in map(str.split, known_kinds())
            if known == version
        ]
        if resources:
            return self.answer(
                {
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": version,
                    "resources": resources,
                }
            )
        return self.answer(
            {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "NotFound",
                "code": 404,
            },
            404,
        )

    def answer(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        pass


def group_version(group: str, version: str) -> dict[str, str]:
    return {"groupVersion": f"{group}/{version}", "version": version}


def plural(kind: str) -> str:
    return re.sub("y$", "ie", kind.lower()) + "s"


@pytest.fixture(scope="module")
def kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    cache = tmp_path_factory.mktemp("kubectl")
    (cache / "none").write_text("apiVersion: v1\nkind: Config\n")
    address = f"--server=http://127.0.0.1:{server.server_port}"
    places = [f"--cache-dir={cache}", f"--kubeconfig={cache}/none"]
    options = ["--dry-run=client", "--validate=false", "-o", "name"]
    yield ["kubectl", address, *places, "apply", *options]
    server.shutdown()
    thread.join()
    server.server_close()


def test_kubectl_would_apply_the_folder_in_its_order(kubectl):
    done = subprocess.run([*kubectl, "-f", str(K8S)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = done.stdout.split()
    assert (
        names[0] == "namespace/distsent"
        and "mpijob.kubeflow.org/imdb" in names
        and "deployment.apps/tensorboard" in names
    )
    assert names.index("networkpolicy.networking.k8s.io/pods-of-jobs") < names.index(
        "mpijob.kubeflow.org/imdb"
    )
    assert sum("mpijob" in name for name in names) == 1, "only the IMDB job starts"


@pytest.mark.parametrize("path", sorted((K8S / "jobs").glob("*.yaml")), ids=lambda path: path.stem)
def test_kubectl_would_apply_each_job_by_name(kubectl, path):
    done = subprocess.run([*kubectl, "-f", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [f"configmap/{path.stem}-job", f"mpijob.kubeflow.org/{path.stem}"]


def test_kubectl_would_apply_the_runtimes_and_each_trainjob(kubectl):
    done = subprocess.run([*kubectl, "-f", str(K8S / "trainjob")], capture_output=True, text=True)
    runtimes = [
        f"trainingruntime.trainer.kubeflow.org/distsent-{name}" for name in ("mpi", "torch")
    ]
    assert done.stdout.split() == ["configmap/jobs", *runtimes], "and nothing starts"
    files = [word for policy in ("mpi", "torch") for word in ("-f", str(K8S / "trainjob" / policy))]
    done = subprocess.run([*kubectl, *files], capture_output=True, text=True)
    wanted = 2 * [f"trainjob.trainer.kubeflow.org/{name}" for name in JOBS]
    assert sorted(done.stdout.split()) == sorted(wanted)


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_kubectl_would_apply_each_overlay(kubectl, folder):
    done = subprocess.run([*kubectl, "-k", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mpijob.kubeflow.org/imdb" in done.stdout


def test_each_overlay_changes_its_fields():
    def mpijob(name: str) -> dict[str, Any]:
        return next(one for one in documents(rendered(K8S / name)) if one["kind"] == "MPIJob")

    gpu = mpijob("gpu")
    worker = gpu["spec"]["mpiReplicaSpecs"]["Worker"]
    assert (
        worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
        and gpu["spec"]["slotsPerWorker"] == 4
    )
    shm = next(one for one in worker["template"]["spec"]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}
    elastic = mpijob("elastic")
    assert (
        "/etc/mpi/discover_hosts.sh"
        in elastic["spec"]["mpiReplicaSpecs"]["Launcher"]["template"]["spec"]["containers"][0][
            "command"
        ]
    )
    queued = mpijob("kueue")
    assert (
        queued["spec"]["runPolicy"]["suspend"] is True
        and queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training"
    )


def test_the_grant_for_the_operator_is_the_one_that_its_own_role_lacks():
    """Its log, without the grant (v0.8.2, Kubernetes 1.33.4, 2026-11):

    jobs.batch "imdb-launcher" is forbidden: User "system:serviceaccount:mpi-operator:mpi-operator"
    cannot update resource "jobs/status" in API group "batch" in the namespace "distsent".
    """
    role, binding = documents((K8S / "operator/jobs-status.yaml").read_text())
    (rule,) = role["rules"]
    assert rule["apiGroups"] == ["batch"] and rule["resources"] == ["jobs/status"]
    assert {"update", "patch"} == set(rule["verbs"])
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    (subject,) = binding["subjects"]
    assert (subject["kind"], subject["namespace"], subject["name"]) == (
        "ServiceAccount",
        *["mpi-operator"] * 2,
    )


def test_only_the_launcher_that_deletes_evicted_workers_has_a_token(everything):
    grant = documents((K8S / "evicted/grant.yaml").read_text())
    account, role, binding = grant
    assert role["kind"] == "Role", "of one namespace"
    assert role["rules"] == [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "delete"]}
    ]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    name = account["metadata"]["name"]
    assert [one["name"] for one in binding["subjects"]] == [name]
    with_token = []
    for one in everything:
        for template in templates(one):
            spec = template["spec"]
            if spec["automountServiceAccountToken"] or "serviceAccountName" in spec:
                assert spec["serviceAccountName"] == name and spec["automountServiceAccountToken"]
                with_token.append(spec["containers"][0]["command"])
    command = ["python", "-m", "distsent.k8s", "launch", "--delete-evicted", "--"]
    assert with_token == ([command] if shutil.which("kubectl") else [])  # it renders the overlay


def test_the_dockerfile_runs_as_a_user_without_build_tools():
    text = (ROOT / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert (
        "ARG BASE=debian:bookworm-slim" in text
        and "HEALTHCHECK" in final
        and "distsent.doctor" in final
        and "\nUSER 1000\n" in final
    )
    # Triton needs a C compiler where CUDA is.
    on_gpus = "$(if [ -d /usr/local/cuda ]; then echo gcc libc6-dev python3-dev; fi)"
    assert final.count(on_gpus) == 1
    assert not re.search(r"g\+\+|gcc|-dev\b|cmake|python3-venv", final.replace(on_gpus, ""))
    sshd = (K8S / "image/sshd_config").read_text()
    assert "\nPort 2222\n" in sshd and "StrictModes no" in sshd
