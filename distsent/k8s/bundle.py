"""Manifests that are applied together, and the pods that come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from distsent.k8s.documents import Document, Finding, Where

TEMPLATES: dict[str, Where] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "Job": ("spec", "template"),
}
SSH_PORT = 2222


@dataclass
class Pod:
    """A pod template: `where` leads to it inside its document."""

    document: Document
    where: Where
    role: str  # Launcher or Worker of an MPIJob, else the kind

    def get(self, *where: str | int, default: Any = None) -> Any:
        return self.document.get(*self.where, "spec", *where, default=default)

    def finding(self, rule: str, message: str, *where: str | int) -> Finding:
        return self.document.finding(rule, f"{self.title}: {message}", *self.where, "spec", *where)

    @property
    def title(self) -> str:
        own = f"{self.document.kind} {self.document.name}"
        return own if self.role == self.document.kind else f"{own}, {self.role}"

    @property
    def labels(self) -> dict[str, str]:
        labels = dict(self.document.get(*self.where, "metadata", "labels", default={}))
        if self.document.kind == "MPIJob":  # what the operator adds
            labels["training.kubeflow.org/job-name"] = self.document.name
            labels["training.kubeflow.org/job-role"] = self.role.lower()
        return labels

    def containers(self) -> Iterator[tuple[Where, dict[str, Any]]]:
        for field in ("initContainers", "containers"):
            for index, container in enumerate(self.get(field, default=[])):
                if isinstance(container, dict):
                    yield (field, index), container

    @property
    def main(self) -> dict[str, Any]:
        """The container to which the operator gives hostfile, key and variables: the first."""
        return as_dict(self.get("containers", 0))

    def words(self) -> list[str]:
        """The command line of the main container."""
        return [
            str(word) for field in ("command", "args") for word in as_list(self.main.get(field))
        ]

    def volume(self, name: str) -> dict[str, Any]:
        return next((v for v in as_list(self.get("volumes")) if as_dict(v).get("name") == name), {})

    def mounts(self) -> list[dict[str, Any]]:
        return [
            mount for mount in as_list(self.main.get("volumeMounts")) if isinstance(mount, dict)
        ]

    def mount_of(self, path: str) -> tuple[dict[str, Any], str] | None:
        """The main container's mount that holds `path`, the innermost, and the path inside it."""
        found: tuple[dict[str, Any], str] | None = None
        for mount in self.mounts():
            folder = PurePosixPath(str(mount.get("mountPath")))
            if PurePosixPath(path).is_relative_to(folder) and (
                found is None or folder.is_relative_to(str(found[0].get("mountPath")))
            ):
                found = mount, str(PurePosixPath(path).relative_to(folder))
        return found

    def claim_at(self, path: str) -> str | None:
        """The name of the claim on which `path` lies, if it lies on one."""
        found = self.mount_of(path)
        if found is None:
            return None
        name = as_dict(self.volume(str(found[0].get("name"))).get("persistentVolumeClaim")).get(
            "claimName"
        )
        return str(name) if name else None


class Bundle:
    """All documents that one `kubectl apply` brings, with those that are there already to refer to."""

    def __init__(self, documents: Sequence[Document], context: Sequence[Document] = ()) -> None:
        self.documents = list(documents)
        self.known = [*documents, *context]

    def of_kind(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents if document.kind in kinds]

    def find(self, kind: str, namespace: str, name: str) -> Document | None:
        for document in self.known:
            if (document.kind, document.namespace, document.name) == (kind, namespace, name):
                return document
        return None

    def pods(self) -> Iterator[Pod]:
        for document in self.documents:
            yield from pods_of(document)


def pods_of(document: Document) -> Iterator[Pod]:
    if document.kind == "MPIJob":
        for role in ("Launcher", "Worker"):
            where: Where = ("spec", "mpiReplicaSpecs", role, "template")
            if isinstance(document.get(*where), dict):
                yield Pod(document, where, role)
    elif document.kind in TEMPLATES and isinstance(
        document.get(*TEMPLATES[document.kind], "spec"), dict
    ):
        yield Pod(document, TEMPLATES[document.kind], document.kind)


@dataclass
class MPIJob:
    """An MPIJob and the questions that the rules ask of it."""

    document: Document
    launcher: Pod | None
    worker: Pod | None

    @property
    def slots(self) -> int:
        return whole(self.document.get("spec", "slotsPerWorker"), 1)

    @property
    def workers(self) -> int:
        return whole(self.document.get("spec", "mpiReplicaSpecs", "Worker", "replicas"), 0)

    @property
    def pods(self) -> list[Pod]:
        return [pod for pod in (self.launcher, self.worker) if pod is not None]

    @property
    def words(self) -> list[str]:
        return self.launcher.words() if self.launcher else []

    @property
    def elastic(self) -> bool:
        return any(word in self.words for word in ("--elastic", "--host-discovery-script"))

    def option(self, *names: str) -> str | None:
        """The value that the launcher's command gives to an option."""
        for word, value in zip(self.words, [*self.words[1:], None], strict=True):
            if word in names:
                return value
            for name in names:
                if name.startswith("--") and word.startswith(name + "="):
                    return word.partition("=")[2]
        return None

    def finding(self, rule: str, message: str, *where: str | int) -> Finding:
        return self.document.finding(rule, f"MPIJob {self.document.name}: {message}", *where)


def mpijobs(bundle: Bundle) -> Iterator[MPIJob]:
    for document in bundle.of_kind("MPIJob"):
        roles = {pod.role: pod for pod in pods_of(document)}
        yield MPIJob(document, roles.get("Launcher"), roles.get("Worker"))


Rule = Callable[[Bundle], Iterator[Finding]]
RULES: dict[str, Rule] = {}


def rule(name: str) -> Callable[[Rule], Rule]:
    """Register a rule; its docstring says why it is one."""

    def register(function: Rule) -> Rule:
        RULES[name] = function
        return function

    return register


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def whole(value: Any, otherwise: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else otherwise
