"""References between manifests: names that must exist and lead to the right object."""

import tomllib
from collections.abc import Iterator
from itertools import product

from distsent.errors import UserError
from distsent.job import load_saved_job
from distsent.k8s.bundle import Bundle, MPIJob, Pod, Problem, pods_of
from distsent.k8s.documents import Node
from distsent.k8s.hosts import job_arguments

CLUSTER_WIDE = ("Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor")
CLAIM, CONFIG_MAP = "PersistentVolumeClaim", "ConfigMap"
SOURCES = (("persistentVolumeClaim", "claimName", CLAIM), ("configMap", "name", CONFIG_MAP))


def reference_problems(bundle: Bundle) -> Iterator[Problem]:
    for rules in (names, volume_sources, selectors, policies):
        yield from rules(bundle)
    for job in bundle.mpijobs:
        if "distsent.train" in job.launcher.command:
            yield from run_folder(job)
            yield from job_file(bundle, job)


def names(bundle: Bundle) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], Node] = {}
    for manifest in bundle.manifests:
        # An object without a namespace lands in the user's current one.
        node, namespace = manifest.at("metadata", "namespace"), manifest.namespace
        if manifest.kind not in CLUSTER_WIDE and not namespace:
            yield "namespace", node, "metadata.namespace is missing"
        elif namespace not in ("", "default") and not bundle.find("Namespace", "", namespace):
            yield "namespace", node, f"no manifest creates the namespace {namespace}"
        # Of two objects with the same name the later one wins.
        first = seen.setdefault((manifest.kind, namespace, manifest.name), manifest)
        if first is not manifest:
            node = manifest.at("metadata", "name")
            yield "twice", node, f"is in {first.place} already"


def volume_sources(bundle: Bundle) -> Iterator[Problem]:
    for pod in bundle.pods:
        for volume, (field, key, kind) in product(pod.spec["volumes"], SOURCES):
            name, optional = volume.at(field, key).text, volume.at(field, "optional")
            found = bundle.find(kind, pod.namespace, name)
            # A pod that names a missing claim or ConfigMap stays in ContainerCreating for ever.
            if name and not found and not optional:
                yield "exists", volume, f"no manifest creates the {kind} {name}"
            # Pods of several nodes mount it: with another access mode only the first node can.
            modes = found.at("spec", "accessModes") if found else volume
            is_shared = kind == CLAIM and pod.spec.root.kind == "MPIJob"
            if found and is_shared and "ReadWriteMany" not in modes.text:
                yield "shared", volume, f"the claim {name} must be ReadWriteMany ({modes.place})"


def run_folder(job: MPIJob) -> Iterator[Problem]:
    """A run in a pod's own files is lost with the pod: nothing to resume, nothing to read."""
    given = [word[8:] for word in job.launcher.command if word.startswith("run.dir=")]
    if not given:
        message = "run.dir=... is missing: the run would be lost with its pod"
        yield "run-folder", job.launcher.command_node, message
        return
    claims = set()
    for pod in job.pods:
        mount, volume, _ = pod.volume_at(given[0])
        claim = volume["persistentVolumeClaim"]
        claims.add(claim["claimName"].text)
        if not claim:
            yield "run-folder", pod.mounts, f"run.dir={given[0]} is not on a claim"
        elif mount["readOnly"] or claim["readOnly"]:
            yield "run-folder", pod.mounts, f"run.dir={given[0]} is mounted read-only"
    if len(claims) > 1:
        message = f"launcher and workers have different claims at {given[0]}"
        yield "run-folder", job.spec["mpiReplicaSpecs"], message


def job_file(bundle: Bundle, job: MPIJob) -> Iterator[Problem]:
    """Every worker reads the job file: a ConfigMap must provide it, and it must be a job."""
    path, overrides = job_arguments(job.launcher.command)
    text = ""
    if path and job.worker.spec:
        mount, volume, key = job.worker.volume_at(path)
        name, mounts = volume.at("configMap", "name").text, job.worker.mounts
        if not mount:
            yield "job-file", mounts, f"nothing is mounted at {path}, and every worker reads it"
        elif not name:
            yield "job-file", mounts, f"{path} does not come from a ConfigMap"
        config = bundle.find(CONFIG_MAP, job.manifest.namespace, name)
        if config is None:
            return  # the rule `exists` reports a missing ConfigMap
        key, items = mount["subPath"].text or key, volume.at("configMap", "items")
        key = next((item["key"].text for item in items if item["path"].text == key), key)
        if key not in config["data"].mapping:
            message = f"{path}: the ConfigMap {name} has no {key} ({config['data'].place})"
            yield "job-file", job.worker.spec["volumes"], message
            return
        text = config.at("data", key).text
    try:
        load_saved_job(tomllib.loads(text), path or "the demo job", overrides)
    except (UserError, tomllib.TOMLDecodeError) as error:
        for line in str(error).splitlines():
            yield "job-file", job.launcher.command_node, line


def selectors(bundle: Bundle) -> Iterator[Problem]:
    # The API server refuses a Deployment that does not select its own pods.
    for manifest in bundle.of_kind("Deployment"):
        node = manifest.at("spec", "selector")
        if not all(selects(node, pod) for pod in pods_of(manifest)):
            yield "selector", node, "does not select its own pods"
    pods = [pod for manifest in bundle.known for pod in pods_of(manifest)]
    for service in bundle.of_kind("Service"):
        node = service.at("spec", "selector")
        near = [pod for pod in pods if pod.namespace == service.namespace]
        chosen = [pod for pod in near if node.mapping.items() <= pod.labels.items()]
        if node and not chosen:
            yield "selector", node, "selects no pod"
        ports = [port for pod in chosen for each in pod.containers for port in each["ports"]]
        known = [port[key].value for port in ports for key in ("name", "containerPort")]
        for port in service.at("spec", "ports"):
            target = port["targetPort"].value or port["port"].value
            if chosen and target not in known:
                yield "selector", port, f"its pods have no port {target}"


def policies(bundle: Bundle) -> Iterator[Problem]:
    """Without a policy every pod of the cluster can connect to sshd, Horovod and TensorBoard."""
    known = [manifest for manifest in bundle.known if manifest.kind == "NetworkPolicy"]
    for pod in bundle.pods:
        near = [policy for policy in known if policy.namespace == pod.namespace]
        if not any(selects(policy.at("spec", "podSelector"), pod) for policy in near):
            yield "network", pod.spec, "no NetworkPolicy says which pods may connect to it"


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
