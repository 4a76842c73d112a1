"""The jobs and pods that manifests define, MPIJobs and TrainJobs alike."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath

from distsent.k8s.documents import Node
from distsent.pods.hosts import JOBSET, options_of

ROLES = ("spec", "mpiReplicaSpecs")
JOBS = ("spec", "template", "spec", "replicatedJobs")  # of a TrainingRuntime
TEMPLATE = ("template", "spec", "template")  # the pods' in one of these
TEMPLATES = ("Deployment", "StatefulSet", "Job")  # kinds with a pod template at spec.template
WITH_PODS = ("MPIJob", "TrainingRuntime")  # kinds from which operators make pods
DELETE_EVICTED = "--delete-evicted"  # the launcher's option that needs a token
QUEUE = "kueue.x-k8s.io/queue-name"
GPU = re.compile(r"nvidia\.com/(gpu|mig-.+)|amd\.com/gpu")


class Pod:
    """A pod template. `spec` is false where a job has no such role.

    `trainer`: what a TrainJob changes in the container. `labels`: also those of an operator.
    """

    def __init__(self, template: Node, trainer: Node | None = None) -> None:
        self.spec, self.namespace = template["spec"], template.root.namespace
        self.containers = [*self.spec["initContainers"], *self.spec["containers"]]
        # The first container gets the operator's hostfile, key and variables.
        self.main = self.spec.at("containers", 0)
        self.mounts = self.main["volumeMounts"]
        changes = self.main if trainer is None else trainer
        parts = [changes[key] or self.main[key] for key in ("command", "args")]
        self.command = [word.text for part in parts for word in part]
        self.command_node = parts[1] or parts[0]
        self.image = changes["image"] or self.main["image"]
        self.env = [*self.main["env"], *(changes["env"] if changes is not self.main else ())]
        self.variables = {each["name"].text: each["value"].text for each in self.env}
        limits = (changes["resourcesPerNode"] or self.main["resources"])["limits"]
        counts = [limits[name].number(0) for name in limits.mapping if GPU.fullmatch(name)]
        self.gpus = sum(counts) if counts else None
        self.labels = template.at("metadata", "labels").mapping | operator_labels(template)

    def option(self, *names: str) -> str | None:
        """The value that the command gives to an option."""
        given = options_of(self.command)
        return next((given[name] for name in names if name in given), None)

    def volume_at(self, path: str) -> tuple[Node, Node, str]:
        """The innermost mount that holds `path`, its volume, and the path inside it."""
        mounts = {PurePosixPath(mount["mountPath"].text): mount for mount in self.mounts}
        whole, missing = PurePosixPath(path), self.mounts[-1]
        folder = next((each for each in (whole, *whole.parents) if each in mounts), whole)
        mount = mounts.get(folder, missing)
        named = (each for each in self.spec["volumes"] if each["name"].text == mount["name"].text)
        return mount, next(named, missing), str(whole.relative_to(folder))


class Job:
    """A job, with the values that many rules need.

    `launcher`: the pod with the training command. `worker`: those of the ranks; without MPI both
    are the same. `slots`: the ranks of a worker. `longest_name`: of a pod.
    """

    workers: int
    longest_name: str

    def __init__(self, manifest: Node, by_role: dict[str, Pod], slots: Node) -> None:
        self.manifest, self.spec = manifest, manifest["spec"]
        self.slots, self.slots_node = slots.number(1), slots
        self.launcher, self.worker = next(iter(by_role.values())), [*by_role.values()][-1]
        self.by_role = {role: pod for role, pod in by_role.items() if pod.spec}
        self.pods = [*self.by_role.values()]
        self.programs = {word.rpartition("/")[2] for word in self.launcher.command}
        self.elastic = not self.programs.isdisjoint(("--elastic", "--host-discovery-script"))
        self.uses_mpi = self.launcher is not self.worker


class MPIJob(Job):
    def __init__(self, manifest: Node) -> None:
        self.roles = manifest.at(*ROLES)
        by_role = {role: Pod(self.roles.at(role, "template")) for role in ("Launcher", "Worker")}
        super().__init__(manifest, by_role, manifest["spec"]["slotsPerWorker"])
        self.workers = self.roles.at("Worker", "replicas").number(0)
        self.longest_name = f"{manifest.name}-worker-{max(self.workers, 1) - 1}"


class TrainJob(Job):
    """A TrainJob, with the pods of its runtime."""

    def __init__(self, manifest: Node, runtime: Node) -> None:
        trainer, self.runtime = manifest.at("spec", "trainer"), runtime
        self.policy = runtime.at("spec", "mlPolicy")
        jobs = {job["name"].text: job for job in runtime.at(*JOBS)}
        self.policy_name = "mpi" if self.policy["mpi"].value is not None else "torch"
        names = ("launcher", "node") if self.policy_name == "mpi" else ("node",)
        templates = {name: jobs.get(name, runtime["no"]).at(*TEMPLATE) for name in names}
        by_role = {name: Pod(templates[name]) for name in names}
        by_role[names[0]] = Pod(templates[names[0]], trainer)
        given, mpi = trainer["numProcPerNode"], self.policy.at("mpi", "numProcPerNode")
        super().__init__(manifest, by_role, given if given or not mpi else mpi)
        self.workers = trainer["numNodes"].number(1)
        self.longest_name = f"{manifest.name}-launcher-0-0-xxxxx"


def operator_labels(template: Node) -> dict[str, str]:
    """What an operator adds to a pod template's labels."""
    job = template.root
    if job.kind == "MPIJob":
        role = str(template.path[len(ROLES)]).lower()
        prefix = "training.kubeflow.org"
        return {f"{prefix}/job-name": job.name, f"{prefix}/job-role": role}
    if job.kind == "TrainingRuntime":
        name = job.at(*template.path[: len(JOBS) + 1])["name"].text
        return {f"{JOBSET}/jobset-name": job.name, f"{JOBSET}/replicatedjob-name": name}
    return {}


class Bundle:
    """What one `kubectl apply` brings, and `known`: that and the manifests it may refer to.

    `shapeless`: those without the shape of their kind.
    """

    def __init__(
        self, manifests: Sequence[Node], known: Sequence[Node], shapeless: Collection[Node] = ()
    ) -> None:
        self.manifests, self.known = manifests, known
        self.mpijobs = [MPIJob(each) for each in manifests if each.kind == "MPIJob"]
        pairs = [(each, self.runtime_of(each)) for each in manifests if each.kind == "TrainJob"]
        whole = ((job, one) for job, one in pairs if one is not None and one not in shapeless)
        self.trainjobs = [TrainJob(job, runtime) for job, runtime in whole]
        self.jobs: list[Job] = [*self.mpijobs, *self.trainjobs]
        self.pods = [pod for manifest in manifests for pod in pods_of(manifest)]

    def find(self, *key: str) -> Node | None:
        return next((m for m in self.known if (m.kind, m.namespace, m.name) == key), None)

    def runtime_of(self, trainjob: Node) -> Node | None:
        reference = trainjob.at("spec", "runtimeRef")
        return self.find(reference["kind"].text, trainjob.namespace, reference["name"].text)


def pods_of(manifest: Node) -> list[Pod]:
    if manifest.kind == "MPIJob":
        return MPIJob(manifest).pods
    if manifest.kind == "TrainingRuntime":
        return [Pod(job.at(*TEMPLATE)) for job in manifest.at(*JOBS)]
    path = ("spec", "template") if manifest.kind in TEMPLATES else ()
    return [Pod(manifest.at(*path))] if manifest.kind in ("Pod", *TEMPLATES) else []
