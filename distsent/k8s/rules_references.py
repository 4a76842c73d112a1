"""What manifests say of each other: names that must exist, and lead to the right thing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from distsent.errors import UserError
from distsent.k8s.bundle import Bundle, MPIJob, Pod, as_dict, as_list, mpijobs, pods_of, rule
from distsent.k8s.documents import Finding
from distsent.k8s.rules_mpijob import command_finding

EVERYWHERE = (
    "Namespace",
    "PriorityClass",
    "ClusterQueue",
    "ResourceFlavor",
)  # kinds that live in no namespace


@rule("namespace")
def namespace(bundle: Bundle) -> Iterator[Finding]:
    """What names no namespace lands in the one that the user happens to be in."""
    for document in bundle.documents:
        if document.kind in EVERYWHERE:
            continue
        if not document.namespace:
            yield document.finding(
                "namespace",
                f"{document.kind} {document.name}: metadata.namespace is missing",
                "metadata",
            )
        elif (
            document.namespace != "default"
            and bundle.find("Namespace", "", document.namespace) is None
        ):
            yield document.finding(
                "namespace",
                f"no manifest makes the namespace {document.namespace}",
                "metadata",
                "namespace",
            )


@rule("twice")
def twice(bundle: Bundle) -> Iterator[Finding]:
    """Of two with the same name the later one wins."""
    seen: dict[tuple[str, str, str], Any] = {}
    for document in bundle.documents:
        key = document.kind, document.namespace, document.name
        if key in seen:
            yield document.finding(
                "twice",
                f"{document.kind} {document.name} is in {seen[key].file}:{seen[key].line()} already",
                "metadata",
                "name",
            )
        seen.setdefault(key, document)


@rule("exists")
def exists(bundle: Bundle) -> Iterator[Finding]:
    """A pod that names a claim or ConfigMap which is not there waits for ever, in ContainerCreating."""
    for pod in bundle.pods():
        for index, volume in enumerate(as_list(pod.get("volumes"))):
            for field, key, kind in (
                ("persistentVolumeClaim", "claimName", "PersistentVolumeClaim"), ("configMap", "name", "ConfigMap"),
            ):  # fmt: skip
                source = as_dict(as_dict(volume).get(field))
                name = source.get(key)
                if (
                    name
                    and not source.get("optional")
                    and bundle.find(kind, pod.document.namespace, name) is None
                ):
                    yield pod.finding(
                        "exists", f"no manifest makes the {kind} {name}", "volumes", index
                    )


@rule("shared")
def shared(bundle: Bundle) -> Iterator[Finding]:
    """Pods of several nodes mount it: any other access mode leaves all but the first waiting."""
    for job in mpijobs(bundle):
        for pod in job.pods:
            for index, volume in enumerate(as_list(pod.get("volumes"))):
                name = as_dict(as_dict(volume).get("persistentVolumeClaim")).get("claimName")
                claim = (
                    bundle.find("PersistentVolumeClaim", pod.document.namespace, str(name))
                    if name
                    else None
                )
                if claim is not None and "ReadWriteMany" not in claim.get(
                    "spec", "accessModes", default=[]
                ):
                    yield pod.finding(
                        "shared",
                        f"the claim {name} must be ReadWriteMany ({claim.file}:{claim.line('spec', 'accessModes')})",
                        "volumes",
                        index,
                    )


@rule("run-folder")
def run_folder(bundle: Bundle) -> Iterator[Finding]:
    """A run in a pod's own files is gone with the pod: nothing to resume, nothing to read afterwards."""
    for job in mpijobs(bundle):
        if not trains(job):
            continue
        folder = next(
            (word.partition("=")[2] for word in job.words if word.startswith("run.dir=")), None
        )
        if folder is None:
            yield command_finding(
                job, "run-folder", "run.dir=... is missing: the run would be lost with its pod"
            )
            continue
        for pod in job.pods:
            found = pod.mount_of(folder)
            if pod.claim_at(folder) is None:
                yield pod.finding(
                    "run-folder",
                    f"run.dir={folder} does not lie on a claim",
                    "containers",
                    0,
                    "volumeMounts",
                )
            elif found is not None and (found[0].get("readOnly") or read_only(pod, found[0])):
                yield pod.finding(
                    "run-folder",
                    f"run.dir={folder} is mounted read-only",
                    "containers",
                    0,
                    "volumeMounts",
                )
        if len({pod.claim_at(folder) for pod in job.pods}) > 1:
            yield job.finding(
                "run-folder",
                f"launcher and workers have different claims at {folder}",
                "spec",
                "mpiReplicaSpecs",
            )


@rule("job-file")
def job_file(bundle: Bundle) -> Iterator[Finding]:
    """Every worker reads the job file: it must be in the ConfigMap that is mounted there, and be a job."""
    for job in mpijobs(bundle):
        if not trains(job):
            continue
        words = job.words[job.words.index("distsent.train") + 1 :]
        path = words[0] if words and "=" not in words[0] else None
        overrides = [word for word in words if "=" in word and not word.startswith("-")]
        text = ""
        if path is not None:
            if job.worker is None:
                continue
            found = text_at(bundle, job.worker, path)
            if isinstance(found, Finding):
                yield found
                continue
            text = found
        for line in mistakes(text, overrides):
            yield command_finding(job, "job-file", f"{path or 'the demo job'}: {line}")


@rule("selector")
def selector(bundle: Bundle) -> Iterator[Finding]:
    """A Deployment whose selector misses its own pods is refused; a Service that selects nothing answers nobody."""
    for document in bundle.of_kind("Deployment"):
        wanted = document.get("spec", "selector", "matchLabels", default={})
        for pod in pods_of(document):
            if not wanted.items() <= pod.labels.items():
                yield document.finding(
                    "selector",
                    f"Deployment {document.name} does not select its own pods",
                    "spec",
                    "selector",
                )
    pods = [pod for document in bundle.known for pod in pods_of(document)]
    for document in bundle.of_kind("Service"):
        wanted = document.get("spec", "selector", default={})
        chosen = [
            pod
            for pod in pods
            if pod.document.namespace == document.namespace and wanted.items() <= pod.labels.items()
        ]
        if wanted and not chosen:
            yield document.finding(
                "selector", f"Service {document.name} selects no pod", "spec", "selector"
            )
        for index, port in enumerate(document.get("spec", "ports", default=[])):
            target = as_dict(port).get("targetPort", as_dict(port).get("port"))
            if chosen and not any(target in known_ports(pod) for pod in chosen):
                yield document.finding(
                    "selector",
                    f"Service {document.name}: its pods have no port {target}",
                    "spec",
                    "ports",
                    index,
                )


@rule("network")
def network(bundle: Bundle) -> Iterator[Finding]:
    """Without a policy every pod of the cluster may talk to sshd, to Horovod's open ports and to TensorBoard."""
    policies = [document for document in bundle.known if document.kind == "NetworkPolicy"]
    for pod in bundle.pods():
        if not any(
            policy.namespace == pod.document.namespace
            and selects(policy.get("spec", "podSelector", default={}), pod.labels)
            for policy in policies
        ):
            yield pod.finding("network", "no NetworkPolicy says who may connect to it")


def trains(job: MPIJob) -> bool:
    return job.launcher is not None and "distsent.train" in job.words


def known_ports(pod: Pod) -> set[Any]:
    ports = [
        as_dict(port)
        for _, container in pod.containers()
        for port in as_list(container.get("ports"))
    ]
    return {port.get("name") for port in ports} | {port.get("containerPort") for port in ports}


def read_only(pod: Pod, mount: dict[str, Any]) -> bool:
    return bool(
        as_dict(pod.volume(str(mount.get("name"))).get("persistentVolumeClaim")).get("readOnly")
    )


def selects(wanted: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector matches."""
    if not as_dict(wanted.get("matchLabels")).items() <= labels.items():
        return False
    for expression in as_list(wanted.get("matchExpressions")):
        key, values = expression.get("key"), as_list(expression.get("values"))
        holds = {
            "Exists": key in labels, "DoesNotExist": key not in labels,
            "In": labels.get(key) in values, "NotIn": labels.get(key) not in values,
        }  # fmt: skip
        if not holds.get(str(expression.get("operator")), False):
            return False
    return True


def text_at(bundle: Bundle, pod: Pod, path: str) -> str | Finding:
    """The text of a file that a ConfigMap puts into a pod."""
    found = pod.mount_of(path)
    if found is None:
        return pod.finding(
            "job-file",
            f"nothing is mounted where {path} should be; every worker reads it",
            "containers",
            0,
            "volumeMounts",
        )
    mount, inside = found
    volume = pod.volume(str(mount.get("name")))
    name = as_dict(volume.get("configMap")).get("name")
    if name is None:
        return pod.finding(
            "job-file", f"{path} does not come from a ConfigMap", "containers", 0, "volumeMounts"
        )
    config = bundle.find("ConfigMap", pod.document.namespace, str(name))
    if config is None:
        return ""  # the rule `exists` says so
    key = str(mount["subPath"]) if inside == "." and mount.get("subPath") else inside
    for item in as_list(as_dict(volume.get("configMap")).get("items")):
        if as_dict(item).get("path") == key:
            key = str(as_dict(item).get("key"))
    text = config.get("data", key)
    if text is None:
        return pod.finding(
            "job-file",
            f"{path}: the ConfigMap {name} has no {key} ({config.file}:{config.line('data')})",
            "volumes",
        )
    return str(text)


def mistakes(text: str, overrides: list[str]) -> list[str]:
    """What is wrong with a job."""
    import tempfile

    from distsent.job import load_job

    with tempfile.NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        try:
            load_job(file.name if text else None, overrides)
        except UserError as error:
            return [line.replace(file.name, "job") for line in error.lines]
    return []
