"""What mpi-operator (v0.8) makes of an MPIJob: the objects that the API server must accept."""

from typing import Any

from distsent.k8s.documents import fill, read_table
from distsent.k8s.jobs import MPIJob

Object = dict[str, Any]
HOSTFILE, DISCOVERY_SCRIPT = "/etc/mpi/hostfile", "/etc/mpi/discover_hosts.sh"
MADE = read_table("mpi_operator.yaml")
LIMITS = ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit")


def objects(job: MPIJob) -> list[Object]:
    """Service, ConfigMap, Secret, the launcher's Job, its pod and the first worker.

    The API server enforces pod security on pods only, not on the Job that makes them.
    """
    pods = [pod_template(job, role) for role in job.by_role]
    policy = job.spec["runPolicy"].mapping
    launcher = {each: policy[each] for each in LIMITS if each in policy}
    launcher |= {"template": pods[0], "suspend": bool(policy.get("suspend"))}
    made: list[Object] = filled("objects", job)
    made.append({"apiVersion": "batch/v1", "kind": "Job", "spec": launcher})
    return made + [{"apiVersion": "v1", "kind": "Pod", **pod} for pod in pods]


def filled(name: str, job: MPIJob) -> Any:
    keys, manifest = job.spec["sshAuthMountPath"].text or "/root/.ssh", job.manifest
    names = {"NAME": manifest.name, "SPACE": manifest.namespace}
    return fill(MADE[name], {**names, "SLOTS": str(job.slots), "KEYS": keys})


def added(job: MPIJob, role: str) -> Object:
    """What the operator adds to the pods of a role and, `container`, to their first containers."""
    found: Object = filled(role, job)
    if job.spec["runLauncherAsWorker"]:
        env = found["container"]["env"]
        found["container"]["env"] = [each for each in env if "NVIDIA" not in each["name"]]
    return found


def pod_template(job: MPIJob, role: str) -> Object:
    replica, more = job.roles[role].mapping, added(job, role)
    first, *others = replica["template"]["spec"]["containers"]
    own = {"containers": [merge(first, more.pop("container")), *others]}
    own["restartPolicy"] = replica.get("restartPolicy", "Never")
    template: Object = merge(replica["template"], more)
    return template | {"spec": template["spec"] | own}


def merge(old: Any, new: Any) -> Any:
    """`old` with what `new` adds: fields of mappings, items of lists, and other values instead."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {key: merge(old.get(key), value) for key, value in new.items()}
    return [*old, *new] if isinstance(old, list) and isinstance(new, list) else new
