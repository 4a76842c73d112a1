"""References between manifests: names that must exist and lead to the right object."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

from distsent.errors import UserError
from distsent.job import load_job
from distsent.k8s.bundle import Bundle, Pod, Problem, pods_of
from distsent.k8s.documents import Document, Node
from distsent.k8s.hosts import job_arguments

CLUSTER_WIDE = ("Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor")
SOURCES = (
    ("persistentVolumeClaim", "claimName", "PersistentVolumeClaim"),
    ("configMap", "name", "ConfigMap"),
)


def namespace(bundle: Bundle) -> Iterator[Problem]:
    """An object without a namespace lands in the user's current one."""
    for document in bundle.documents:
        node = document.metadata["namespace"]
        if document.kind in CLUSTER_WIDE or node.value == "default":
            continue
        if not node:
            yield node, "metadata.namespace is missing"
        elif bundle.find("Namespace", "", node.text) is None:
            yield node, f"no manifest creates the namespace {node.text}"


def twice(bundle: Bundle) -> Iterator[Problem]:
    """Of two objects with the same name the later one wins."""
    seen: dict[tuple[str, str, str], Document] = {}
    for document in bundle.documents:
        first = seen.setdefault((document.kind, document.namespace, document.name), document)
        if first is not document:
            yield document.metadata["name"], f"is in {first.root.place} already"


def exists(bundle: Bundle) -> Iterator[Problem]:
    """A pod that names a missing claim or ConfigMap stays in ContainerCreating for ever."""
    for pod in bundle.pods:
        for volume in pod.spec["volumes"]:
            for field, key, kind in SOURCES:
                name, optional = volume.at(field, key).text, volume.at(field, "optional")
                if name and not optional and bundle.find(kind, pod.namespace, name) is None:
                    yield volume, f"no manifest creates the {kind} {name}"


def shared(bundle: Bundle) -> Iterator[Problem]:
    """Pods of several nodes mount the claim: with another access mode only the first node can."""
    for pod in (pod for job in bundle.mpijobs for pod in job.pods):
        for volume in pod.spec["volumes"]:
            name = volume.at("persistentVolumeClaim", "claimName").text
            claim = bundle.find("PersistentVolumeClaim", pod.namespace, name)
            modes = claim.at("spec", "accessModes") if claim else volume["no modes"]
            if claim and "ReadWriteMany" not in modes.text:
                yield volume, f"the claim {name} must be ReadWriteMany ({modes.place})"


def run_folder(bundle: Bundle) -> Iterator[Problem]:
    """A run in a pod's own files is lost with the pod: nothing to resume, nothing to read."""
    for job in (job for job in bundle.mpijobs if job.trains):
        given = (
            word.removeprefix("run.dir=") for word in job.launcher.command if word[:8] == "run.dir="
        )
        folder = next(given, None)
        if folder is None:
            message = "run.dir=... is missing: the run would be lost with its pod"
            yield job.launcher.command_node, message
            continue
        for pod in job.pods:
            found, claim, node = (
                pod.mount_of(folder),
                pod.claim_at(folder),
                pod.main["volumeMounts"],
            )
            if found is None or not claim:
                yield node, f"run.dir={folder} is not on a claim"
            elif found[0]["readOnly"] or claim["readOnly"]:
                yield node, f"run.dir={folder} is mounted read-only"
        if len({pod.claim_at(folder)["claimName"].text for pod in job.pods}) > 1:
            message = f"launcher and workers have different claims at {folder}"
            yield job.spec["mpiReplicaSpecs"], message


def job_file(bundle: Bundle) -> Iterator[Problem]:
    """Every worker reads the job file: a ConfigMap must provide it, and it must be a job."""
    for job in (job for job in bundle.mpijobs if job.trains):
        path, overrides = job_arguments(job.launcher.command)
        text = text_at(bundle, job.worker, path) if path and job.worker.spec else ""
        if isinstance(text, tuple):
            yield text
            continue
        for mistake in mistakes_in_job(text, overrides):
            yield job.launcher.command_node, f"{path or 'the demo job'}: {mistake}"


def selector(bundle: Bundle) -> Iterator[Problem]:
    """The API server refuses a Deployment without its own pods; a Service without pods is dead."""
    for document in bundle.of_kind("Deployment"):
        node = document.at("spec", "selector")
        if not all(selects(node, pod) for pod in pods_of(document)):
            yield node, "does not select its own pods"
    pods = [pod for document in bundle.known for pod in pods_of(document)]
    for document in bundle.of_kind("Service"):
        node = document.at("spec", "selector")
        near = [pod for pod in pods if pod.namespace == document.namespace]
        chosen = [pod for pod in near if node.mapping.items() <= pod.labels.items()]
        if node and not chosen:
            yield node, "selects no pod"
        for port in document.at("spec", "ports"):
            target = port["targetPort"].value or port["port"].value
            if chosen and not any(target in ports_of(pod) for pod in chosen):
                yield port, f"its pods have no port {target}"


def network(bundle: Bundle) -> Iterator[Problem]:
    """Without a policy every pod of the cluster can connect to sshd, Horovod and TensorBoard."""
    policies = [document for document in bundle.known if document.kind == "NetworkPolicy"]
    for pod in bundle.pods:
        near = (policy for policy in policies if policy.namespace == pod.namespace)
        if not any(selects(policy.at("spec", "podSelector"), pod) for policy in near):
            yield pod.spec, "no NetworkPolicy says which pods may connect to it"


def ports_of(pod: Pod) -> list[Any]:
    """The names and numbers of a pod's ports."""
    ports = [port.mapping for container in pod.containers for port in container["ports"]]
    return [port.get(key) for port in ports for key in ("name", "containerPort")]


def selects(selector: Node, pod: Pod) -> bool:
    """Whether a label selector matches."""
    matches = [selector["matchLabels"].mapping.items() <= pod.labels.items()]
    for expression in selector["matchExpressions"]:
        key = expression["key"].text
        among = pod.labels.get(key) in (expression["values"].value or ())
        operators = {"Exists": key in pod.labels, "In": among}
        operators |= {"DoesNotExist": key not in pod.labels, "NotIn": not among}
        matches.append(operators.get(expression["operator"].text, False))
    return all(matches)


def text_at(bundle: Bundle, pod: Pod, path: str) -> str | Problem:
    """The text of a file that a ConfigMap puts into a pod, or the reason why there is none."""
    found, mounts = pod.mount_of(path), pod.main["volumeMounts"]
    if found is None:
        return mounts, f"nothing is mounted at {path}, and every worker reads it"
    mount, key = found
    source = pod.volume(mount["name"].text)["configMap"]
    if not source:
        return mounts, f"{path} does not come from a ConfigMap"
    config = bundle.find("ConfigMap", pod.namespace, source["name"].text)
    if config is None:
        return ""  # a finding of the rule `exists`
    key = mount["subPath"].text or key
    key = next((item["key"].text for item in source["items"] if item["path"].text == key), key)
    data = config.at("data")
    if key not in data.mapping:
        message = f"{path}: the ConfigMap {config.name} has no {key} ({data.place})"
        return pod.spec["volumes"], message
    return data[key].text


def mistakes_in_job(text: str, overrides: list[str]) -> list[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            load_job(file.name if text else None, overrides)
        except UserError as error:
            return [line.replace(file.name, "job") for line in error.lines]
    return []


RULES = namespace, twice, exists, shared, run_folder, job_file, selector, network
