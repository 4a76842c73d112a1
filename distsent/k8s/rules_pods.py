"""What each pod must have: a versioned image, limits, and only the rights that it uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from distsent.k8s.bundle import Bundle, Pod, Problem
from distsent.k8s.documents import Node
from distsent.k8s.schema import quantity

FIELD_RULES: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("field_rules.yaml").read_text(encoding="utf-8")
)


def field_problems(bundle: Bundle) -> Iterator[tuple[str, Node, str]]:
    """The rules of field_rules.yaml that are broken: rule, field and message."""
    roles = [(job.spec["mpiReplicaSpecs"], pod.role) for job in bundle.mpijobs for pod in job.pods]
    objects = {
        "MPIJob": [job.document.root for job in bundle.mpijobs],
        "role of an MPIJob": [specs[role] for specs, role in roles],
        "pod": [pod.spec for pod in bundle.pods],
        "container": [container for pod in bundle.pods for container in pod.containers],
    }
    for kind, rules in FIELD_RULES.items():
        for node in objects[kind]:
            for rule in rules:
                field = node.at(*rule["field"].split())
                allowed = what_is_wrong(field, rule)
                if allowed:
                    name = f"{node['name'].text}: " if kind == "container" else ""
                    message = f"{name}{rule['field'].replace(' ', '.')} must be {allowed}"
                    yield rule["rule"], field, message + rule.get("reason", "")


def what_is_wrong(field: Node, rule: dict[str, Any]) -> str:
    """What the rule allows, if the field has another value. Empty if it is fine."""
    allowed = rule.get("allowed", ())
    if "at_least" in rule:
        wrong = field.number(rule["default"]) < rule["at_least"]
        return f"{rule['at_least']} or more" if wrong else ""
    if allowed == "given":
        return "given" if field.value is None else ""
    words = (str(one).lower() if isinstance(one, bool) else f"{one}" for one in allowed)
    return "" if field.value in allowed else " or ".join(w for w in words if w != "None")


def image(pod: Pod) -> Iterator[Problem]:
    """`latest` may change between two restarts of a job, and all its workers must run the same."""
    for node in (container["image"] for container in pod.containers):
        tag = node.text.rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in node.text and tag in ("", "latest"):
            yield node, f"{node.text}: name a version"


def resources(pod: Pod) -> Iterator[Problem]:
    """The scheduler needs requests; without a memory limit one pod takes its node down."""
    for container in pod.containers:
        node, name = container["resources"], container["name"].text
        for side in ("requests", "limits"):
            for resource in {"cpu", "memory"} - set(node[side].mapping):
                yield node, f"{name}: resources.{side}.{resource} is missing"
        for resource, limit in node["limits"].mapping.items():
            request = quantity(node["requests"][resource].value) or 0
            if request > (quantity(limit) or 0):
                yield node, f"{name}: requests more {resource} than its limit"


def security(pod: Pod) -> Iterator[Problem]:
    """The pod security standard `restricted`. Its other demands are in field_rules.yaml."""
    for container in pod.containers:
        node = container.at("securityContext", "capabilities")
        if "ALL" not in node.mapping.get("drop", ()) or node["add"]:
            yield node, f"{container['name'].text}: capabilities must drop ALL and add none"


def volumes(pod: Pod) -> Iterator[Problem]:
    """The API server refuses a mount without a volume: in an MPIJob only when pods are created."""
    names = [volume["name"].text for volume in pod.spec["volumes"]]
    mounts = [mount["name"] for container in pod.containers for mount in container["volumeMounts"]]
    for mount in mounts:
        if mount.text not in names:
            yield mount, f"no volume {mount.text} for this mount"
    for index, volume in enumerate(pod.spec["volumes"]):
        if names[index] in names[:index]:
            yield volume, f"two volumes are named {names[index]}"
        elif names[index] not in {mount.text for mount in mounts}:
            yield volume, f"nothing mounts the volume {names[index]}"


def ports(pod: Pod) -> Iterator[Problem]:
    """A probe of a port name that no port has: the pod never becomes ready."""
    for container in pod.containers:
        names = [port["name"].value for port in container["ports"]]
        for probe in ("readinessProbe", "livenessProbe", "startupProbe"):
            for handler in ("tcpSocket", "httpGet"):
                port = container.at(probe, handler, "port")
                if isinstance(port.value, str) and port.value not in names:
                    yield port, f"{probe} uses port {port.value}, but no port has that name"


RULES = image, resources, security, volumes, ports
