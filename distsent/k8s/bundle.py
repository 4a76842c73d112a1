"""Manifests that are applied together, and the pods that come of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import PurePosixPath

from distsent.k8s.documents import Document, Node

ROLES = ("spec", "mpiReplicaSpecs")
TEMPLATES = ("Deployment", "StatefulSet", "Job")  # kinds with a pod template at spec.template
Problem = tuple[Node, str]  # the value that breaks a rule, and what is wrong with it


class Pod:
    """A pod template. `spec` is false where an MPIJob has no such role."""

    def __init__(self, template: Node, role: str = "") -> None:
        self.template, self.role, self.spec = template, role, template["spec"]
        self.namespace = template.document.namespace
        self.containers = [*self.spec["initContainers"], *self.spec["containers"]]
        # The first container gets the operator's hostfile, key and variables.
        self.main = self.spec.at("containers", 0)
        self.command = [word.text for key in ("command", "args") for word in self.main[key]]
        self.command_node = self.main["args" if self.main["args"] else "command"]
        self.labels = dict(template.at("metadata", "labels").mapping)
        if role:  # the operator adds these
            self.labels["training.kubeflow.org/job-name"] = template.document.name
            self.labels["training.kubeflow.org/job-role"] = role.lower()

    def option(self, *names: str) -> str | None:
        """The value that the command gives to an option."""
        for word, value in pairwise([*self.command, ""]):
            name, equals, rest = word.partition("=")
            if name in names and (not equals or name.startswith("--")):
                return rest if equals else value
        return None

    def volume(self, name: str) -> Node:
        volumes = self.spec["volumes"]
        return next((volume for volume in volumes if volume["name"].text == name), volumes[-1])

    def mount_of(self, path: str) -> tuple[Node, str] | None:
        """The main container's innermost mount that holds `path`, and the path inside it."""
        mounts = self.main["volumeMounts"]
        folders = {PurePosixPath(mount["mountPath"].text): mount for mount in mounts}
        for folder in (PurePosixPath(path), *PurePosixPath(path).parents):
            if folder in folders:
                return folders[folder], str(PurePosixPath(path).relative_to(folder))
        return None

    def claim_at(self, path: str) -> Node:
        """The claim in the pod's volumes that holds `path`."""
        found = self.mount_of(path)
        return self.volume(found[0]["name"].text if found else "")["persistentVolumeClaim"]


class MPIJob:
    """An MPIJob, with the values that many rules need."""

    def __init__(self, document: Document) -> None:
        self.document, self.spec = document, document.at("spec")
        self.launcher, self.worker = (
            Pod(document.at(*ROLES, role, "template"), role) for role in ("Launcher", "Worker")
        )
        self.pods = [pod for pod in (self.launcher, self.worker) if pod.spec]
        self.slots = self.spec["slotsPerWorker"].number(1)
        self.workers = document.at(*ROLES, "Worker", "replicas").number(0)
        self.launcher_works = bool(self.spec["runLauncherAsWorker"])
        self.programs = {word.rpartition("/")[2] for word in self.launcher.command}
        self.trains = "distsent.train" in self.programs
        self.elastic = not self.programs.isdisjoint(("--elastic", "--host-discovery-script"))


class Bundle:
    """The documents that one `kubectl apply` brings, and the existing ones they may refer to."""

    def __init__(self, documents: Sequence[Document], known: Sequence[Document]) -> None:
        self.documents, self.known = documents, known
        self.mpijobs = [MPIJob(document) for document in self.of_kind("MPIJob")]
        self.pods = [pod for document in documents for pod in pods_of(document)]

    def of_kind(self, kind: str) -> Iterator[Document]:
        return (document for document in self.documents if document.kind == kind)

    def find(self, kind: str, namespace: str, name: str) -> Document | None:
        for document in self.known:
            if (document.kind, document.namespace, document.name) == (kind, namespace, name):
                return document
        return None


def pods_of(document: Document) -> list[Pod]:
    if document.kind == "MPIJob":
        return MPIJob(document).pods
    path = ("spec", "template") if document.kind in TEMPLATES else ()
    return [Pod(document.at(*path))] if document.kind in ("Pod", *TEMPLATES) else []


def title(node: Node) -> str:
    """The object that a value belongs to, and in an MPIJob its role."""
    own = f"{node.document.kind} {node.document.name}"
    return f"{own}, {node.path[2]}" if node.path[:2] == ROLES and len(node.path) > 2 else own
