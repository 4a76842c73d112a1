"""All rules, and those about fields, pods and names."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

from jsonschema import Draft202012Validator

from distsent.k8s.documents import Node, Problem, read_table
from distsent.k8s.job_rules import job_problems
from distsent.k8s.jobs import JOBS, Bundle
from distsent.k8s.operator_rules import operator_problems
from distsent.k8s.reference_rules import reference_problems
from distsent.k8s.schema import quantity
from distsent.k8s.selector_rules import selector_problems

PROBES, HANDLERS = ("readinessProbe", "livenessProbe", "startupProbe"), ("tcpSocket", "httpGet")
CLUSTER_WIDE = {"Namespace", "PriorityClass", "ClusterQueue", "ResourceFlavor", "StorageClass"}
CLUSTER_WIDE |= {"ClusterRole", "ClusterRoleBinding", "PersistentVolume"}
FIELD_RULES = read_table("field_rules.yaml")
MOST_BYTES = 262144
NAMED = ("container", "volume", "port", "replicated job")


def field_problems(bundle: Bundle) -> Iterator[Problem]:
    """What breaks the rules of field_rules.yaml."""
    roles = [job.roles[role] for job in bundle.mpijobs for role in job.roles.mapping]
    objects = {kind: [m for m in bundle.manifests if m.kind == kind] for kind in FIELD_RULES}
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


RULES = [field_problems, pod_problems, job_problems, operator_problems, names]
RULES += [reference_problems, selector_problems]
