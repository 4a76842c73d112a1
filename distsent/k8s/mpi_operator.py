"""What mpi-operator (v0.8) makes of an MPIJob: the objects that the API server must accept."""

from __future__ import annotations

import copy
from typing import Any

from distsent.k8s.documents import fill, read_table
from distsent.k8s.jobs import ROLES, MPIJob

Object = dict[str, Any]
HOSTFILE, DISCOVERY_SCRIPT = "/etc/mpi/hostfile", "/etc/mpi/discover_hosts.sh"
MADE = read_table("mpi_operator.yaml")


def objects(job: MPIJob) -> list[Object]:
    """Service, ConfigMap, Secret, the first worker, the launcher's Job and its pod.

    Their names are prefixes: a job that runs already has objects with the names themselves. The
    API server enforces pod security on pods only, not on the Job that makes them.
    """
    pods = {role: pod_template(job, role) for role in job.by_role}
    policy = job.spec["runPolicy"].mapping
    limits = ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit")
    launcher = {each: policy[each] for each in limits if each in policy}
    launcher |= {"template": pods["Launcher"], "suspend": bool(policy.get("suspend"))}
    made: list[Object] = fill(MADE["objects"], words_of(job))
    made.append({"apiVersion": "batch/v1", "kind": "Job", "spec": launcher})
    made += [{"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(pods[role])} for role in pods]
    names = {"generateName": f"{job.manifest.name}-", "namespace": job.manifest.namespace}
    return [each | {"metadata": each.get("metadata", {}) | names} for each in made]


def words_of(job: MPIJob) -> dict[str, str]:
    """What the words of mpi_operator.yaml stand for."""
    keys, manifest = job.spec["sshAuthMountPath"].text or "/root/.ssh", job.manifest
    names = {"NAME": manifest.name, "SPACE": manifest.namespace}
    return {**names, "SLOTS": str(job.slots), "KEYS": keys}


def added(job: MPIJob, role: str) -> Object:
    """Labels, variables, volumes and mounts that the operator adds to the pods of a role."""
    found: Object = fill(MADE[role], words_of(job))
    if job.spec["runLauncherAsWorker"]:
        found["env"] = {k: v for k, v in found["env"].items() if not k.startswith("NVIDIA")}
    return found


def pod_template(job: MPIJob, role: str) -> Object:
    """The template of a role, with what the operator adds."""
    replica, more = copy.deepcopy(job.manifest.at(*ROLES, role).mapping), added(job, role)
    template = replica["template"]
    spec, container = template["spec"], template["spec"]["containers"][0]
    template.setdefault("metadata", {}).setdefault("labels", {}).update(more["labels"])
    spec |= more["spec"] | {"restartPolicy": replica.get("restartPolicy", "Never")}
    if role == "Worker":
        search = f"{job.manifest.name}.{job.manifest.namespace}.svc.cluster.local"
        spec.setdefault("dnsConfig", {}).setdefault("searches", []).append(search)
    places = [{"name": volume, "mountPath": path} for volume, path in more["mounts"].items()]
    env = [{"name": name, "value": value} for name, value in more["env"].items()]
    for where, key, new in (
        (container, "env", env),
        (container, "volumeMounts", places),
        (spec, "volumes", more["volumes"]),
    ):
        where.setdefault(key, []).extend(new)
    return dict(template)
