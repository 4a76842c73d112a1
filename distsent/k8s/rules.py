"""Rules about all manifests: what the cluster demands, and what must exist."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from jsonschema import Draft202012Validator

from distsent.k8s.documents import Node, Problem, read_table
from distsent.k8s.job_rules import job_problems
from distsent.k8s.jobs import DELETE_EVICTED, JOBS, Bundle, Pod, pods_of
from distsent.k8s.operator_rules import operator_problems
from distsent.k8s.schema import quantity

PROBES, HANDLERS = ("readinessProbe", "livenessProbe", "startupProbe"), ("tcpSocket", "httpGet")
CLUSTER_WIDE = {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor", "StorageClass"}
CLUSTER_WIDE |= {"ClusterRole", "ClusterRoleBinding", "PersistentVolume"}
CLAIM, CONFIG_MAP = "PersistentVolumeClaim", "ConfigMap"
SOURCES = (("persistentVolumeClaim", "claimName", CLAIM), ("configMap", "name", CONFIG_MAP))
FIELD_RULES = read_table("field_rules.yaml")
KINDS = ("MPIJob", "TrainJob", "TrainingRuntime")  # those with field rules of their own
MOST_BYTES = 262144
NAMED = ("container", "volume", "port", "replicated job")


def field_problems(bundle: Bundle) -> Iterator[Problem]:
    """What breaks the rules of field_rules.yaml."""
    roles = [job.roles[role] for job in bundle.mpijobs for role in job.roles.mapping]
    objects = {kind: [m for m in bundle.manifests if m.kind == kind] for kind in KINDS}
    objects |= {"role": roles, "replicated job": []}
    for runtime in objects["TrainingRuntime"]:
        objects["replicated job"] += runtime.at(*JOBS)
    objects["pod"] = [pod.spec for pod in bundle.pods]
    objects["container"] = [container for pod in bundle.pods for container in pod.containers]
    objects["volume"] = [volume for pod in bundle.pods for volume in pod.spec["volumes"]]
    objects["port"] = [port for each in objects["container"] for port in each["ports"]]
    for kind, rules in FIELD_RULES.items():
        for node, (rule, path, schema, message, *condition) in product(objects[kind], rules):
            if not fits(node, path, schema) and (not condition or fits(node, *condition)):
                name = f"{node['name'].text}:" if kind in NAMED else ""
                words = (name, path.replace(" ", "."), message)
                yield rule, node.below(path), " ".join(word for word in words if word)


def fits(node: Node, path: str, schema: dict[str, Any]) -> bool:
    return Draft202012Validator(schema).is_valid(node.below(path).value)


def pod_problems(bundle: Bundle) -> Iterator[Problem]:
    for pod in bundle.pods:
        # The API server refuses these, but for an MPIJob only when it creates the pods.
        names = [volume["name"].text for volume in pod.spec["volumes"]]
        places = product(pod.containers, ("volumeMounts", "volumeDevices"))
        mounts = [mount["name"] for container, key in places for mount in container[key]]
        for mount in mounts:
            if mount.text not in names:
                yield "volumes", mount, f"no volume {mount.text} for this mount"
        for volume in pod.spec["volumes"]:
            if volume["name"].text not in [mount.text for mount in mounts]:
                yield "volumes", volume, f"nothing mounts the volume {volume['name'].text}"
        first = [container["name"].text for container in pod.spec["initContainers"]]
        for container in pod.spec["containers"]:
            if container["name"].text in first:
                yield "containers", container["name"], "an init container has that name, too"
        grace = pod.spec["terminationGracePeriodSeconds"].number(30)
        for container in pod.containers:
            yield from resource_problems(container)
            seconds = container.at("lifecycle", "preStop", "sleep", "seconds")
            if seconds.number(0) > grace:
                yield "grace", seconds, f"sleeps for more than the {grace} s of the pod"
        # With a probe of a port name that no port has the pod never becomes ready.
        for container, probe, handler in product(pod.containers, PROBES, HANDLERS):
            port = container.at(probe, handler, "port")
            known = [other["name"].value for other in container["ports"]]
            if isinstance(port.value, str) and port.value not in known:
                yield "ports", port, f"{probe} uses port {port.value}, but no port has that name"


def resource_problems(container: Node) -> Iterator[Problem]:
    node, name = container["resources"], container["name"].text
    limits, requests = node["limits"], node["requests"]
    for each in {**limits.mapping, **requests.mapping}:
        limit, request = (quantity(values[each].value) for values in (limits, requests))
        is_page = each.startswith("hugepages-")
        is_device, unit = is_page or "/" in each, quantity(each[10:]) if is_page else 1
        if is_device and (limit is None or request not in (None, limit)):
            yield "resources", node, f"{name}: {each} needs a limit, and no other request"
        elif is_device and limit and unit and limit % unit:
            whole = f"a multiple of {each[10:]}" if is_page else "a whole number"
            yield "resources", node, f"{name}: {each} must be {whole}"
        elif limit is not None and request is not None and request > limit:
            yield "resources", node, f"{name}: requests more {each} than its limit"
        # 8 is 8 bytes, and 512m half a byte.
        if each == "memory" and min(limit or 2**20, request or 2**20) < 2**20:
            yield "resources", node, f"{name}: memory of less than 1Mi; is the unit missing?"


def names(bundle: Bundle) -> Iterator[Problem]:
    seen: dict[tuple[str, str, str], Node] = {}
    for manifest in bundle.manifests:
        # An object without a namespace lands in the user's current one.
        node, namespace = manifest.at("metadata", "namespace"), manifest.namespace
        if manifest.kind not in CLUSTER_WIDE and not namespace:
            yield "namespace", node, "metadata.namespace is missing"
        elif namespace not in ("", "default") and not bundle.find("Namespace", "", namespace):
            yield "namespace", node, f"no manifest creates the namespace {namespace}"
        # A plain `kubectl apply` keeps the manifest in an annotation, and those have a limit.
        if len(json.dumps(manifest.value, default=str)) > MOST_BYTES:
            advice = "kubectl apply refuses more than 256 KiB: use kubectl apply --server-side"
            yield "size", manifest.at("metadata", "name"), advice
        # Of two objects with the same name the later one wins.
        first = seen.setdefault((manifest.kind, namespace, manifest.name), manifest)
        if first is not manifest:
            yield "twice", manifest.at("metadata", "name"), f"is in {first.place} already"


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
            is_shared = kind == CLAIM and pod.spec.root.kind in KINDS
            if found and is_shared and "ReadWriteMany" not in modes.text:
                yield "shared", volume, f"the claim {name} must be ReadWriteMany ({modes.place})"


def grants(bundle: Bundle) -> Iterator[Problem]:
    for manifest in bundle.manifests:
        role = manifest["roleRef"]
        if role["kind"].text == "Role" and not bundle.find(
            "Role", manifest.namespace, role["name"].text
        ):
            yield "exists", role, f"no manifest creates the Role {role['name'].text}"
    for pod in bundle.pods:
        account, deletes = pod.spec["serviceAccountName"], DELETE_EVICTED in pod.command
        if deletes and not bundle.find("ServiceAccount", pod.namespace, account.text):
            name = account.text or "(serviceAccountName is missing)"
            yield "exists", account, f"no manifest creates the ServiceAccount {name}"


def selectors(bundle: Bundle) -> Iterator[Problem]:
    pods = [pod for manifest in bundle.known for pod in pods_of(manifest)]
    for manifest in bundle.manifests:
        node = manifest.at("spec", "selector")
        # The API server refuses a Deployment that does not select its own pods.
        if manifest.kind == "Deployment" and not selects(node, pods_of(manifest)[0]):
            yield "selector", node, "does not select its own pods"
        if manifest.kind != "Service":
            continue
        near = [pod for pod in pods if pod.namespace == manifest.namespace]
        chosen = [pod for pod in near if node.mapping.items() <= pod.labels.items()]
        if node and not chosen:
            yield "selector", node, "selects no pod"
        ports = [port for pod in chosen for each in pod.containers for port in each["ports"]]
        known = [port[key].value for port in ports for key in ("name", "containerPort")]
        for port in manifest.at("spec", "ports"):
            target = port["targetPort"].value or port["port"].value
            if chosen and target not in known:
                yield "selector", port, f"its pods have no port {target}"
    # Without a policy every pod of the cluster can connect to sshd, Horovod and TensorBoard.
    policies = [manifest for manifest in bundle.known if manifest.kind == "NetworkPolicy"]
    for pod in bundle.pods:
        some = [policy for policy in policies if policy.namespace == pod.namespace]
        if not any(selects(policy.at("spec", "podSelector"), pod) for policy in some):
            yield "network", pod.spec, "no NetworkPolicy says which pods may connect to it"


def selects(selector: Node, pod: Pod) -> bool:
    """Whether a label selector matches."""
    matches = [selector["matchLabels"].mapping.items() <= pod.labels.items()]
    for expression in selector["matchExpressions"]:
        known = expression["key"].text in pod.labels
        among = pod.labels.get(expression["key"].text) in (expression["values"].value or ())
        results = {"Exists": known, "DoesNotExist": not known, "In": among, "NotIn": not among}
        matches.append(results.get(expression["operator"].text, False))
    return all(matches)


RULES = (
    *(field_problems, pod_problems, job_problems, operator_problems),
    *(names, volume_sources, grants, selectors),
)
