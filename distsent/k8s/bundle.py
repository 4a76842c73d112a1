"""Manifests that are applied together, and the pods that come of them."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise
from pathlib import PurePosixPath

from distsent.k8s.documents import Node

ROLES = ("spec", "mpiReplicaSpecs")
TEMPLATES = ("Deployment", "StatefulSet", "Job")  # kinds with a pod template at spec.template
Problem = tuple[str, Node, str]  # rule, the value that breaks it, and what is wrong with it


class Pod:
    """A pod template. `spec` is false where an MPIJob has no such role."""

    def __init__(self, template: Node, role: str = "") -> None:
        self.spec, self.namespace = template["spec"], template.root.namespace
        self.containers = [*self.spec["initContainers"], *self.spec["containers"]]
        # The first container gets the operator's hostfile, key and variables.
        self.main = self.spec.at("containers", 0)
        self.mounts = self.main["volumeMounts"]
        self.command = [word.text for key in ("command", "args") for word in self.main[key]]
        self.command_node = self.main["args" if self.main["args"] else "command"]
        self.labels = dict(template.at("metadata", "labels").mapping)
        if role:  # the operator adds these
            self.labels["training.kubeflow.org/job-name"] = template.root.name
            self.labels["training.kubeflow.org/job-role"] = role.lower()

    def option(self, *names: str) -> str | None:
        """The value that the command gives to an option."""
        parts = [word.split("=", 1) if word[:2] == "--" else [word] for word in self.command]
        words = [*chain.from_iterable(parts), ""]
        return next((value for word, value in pairwise(words) if word in names), None)

    def volume_at(self, path: str) -> tuple[Node, Node, str]:
        """The innermost mount that holds `path`, its volume, and the path inside it."""
        mounts = {PurePosixPath(mount["mountPath"].text): mount for mount in self.mounts}
        whole, missing = PurePosixPath(path), self.mounts[-1]
        folder = next((each for each in (whole, *whole.parents) if each in mounts), whole)
        mount = mounts.get(folder, missing)
        named = (each for each in self.spec["volumes"] if each["name"].text == mount["name"].text)
        return mount, next(named, missing), str(whole.relative_to(folder))


class MPIJob:
    """An MPIJob, with the values that many rules need."""

    def __init__(self, manifest: Node) -> None:
        self.manifest, self.spec = manifest, manifest["spec"]
        self.launcher, self.worker = (
            Pod(manifest.at(*ROLES, role, "template"), role) for role in ("Launcher", "Worker")
        )
        self.pods = [pod for pod in (self.launcher, self.worker) if pod.spec]
        self.slots = self.spec["slotsPerWorker"].number(1)
        self.workers = manifest.at(*ROLES, "Worker", "replicas").number(0)
        self.launcher_works = bool(self.spec["runLauncherAsWorker"])
        self.programs = {word.rpartition("/")[2] for word in self.launcher.command}
        self.elastic = not self.programs.isdisjoint(("--elastic", "--host-discovery-script"))


class Bundle:
    """What one `kubectl apply` brings, and `known`: that and the manifests it may refer to."""

    def __init__(self, manifests: Sequence[Node], known: Sequence[Node]) -> None:
        self.manifests, self.known = manifests, known
        self.mpijobs = [MPIJob(manifest) for manifest in self.of_kind("MPIJob")]
        self.pods = [pod for manifest in manifests for pod in pods_of(manifest)]

    def of_kind(self, kind: str) -> Iterator[Node]:
        return (manifest for manifest in self.manifests if manifest.kind == kind)

    def find(self, *key: str) -> Node | None:
        """The manifest of this kind, namespace and name."""
        return next((m for m in self.known if (m.kind, m.namespace, m.name) == key), None)


def pods_of(manifest: Node) -> list[Pod]:
    if manifest.kind == "MPIJob":
        return MPIJob(manifest).pods
    path = ("spec", "template") if manifest.kind in TEMPLATES else ()
    return [Pod(manifest.at(*path))] if manifest.kind in ("Pod", *TEMPLATES) else []
