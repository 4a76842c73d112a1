"""What mpi-operator (v0.8) makes of an MPIJob: the objects that the API server must accept."""

from __future__ import annotations

import copy
from typing import Any

from distsent.k8s.jobs import ROLES, MPIJob

Object = dict[str, Any]
CONFIG_FOLDER = "/etc/mpi"
HOSTFILE, DISCOVERY_SCRIPT = f"{CONFIG_FOLDER}/hostfile", f"{CONFIG_FOLDER}/discover_hosts.sh"
KEY_VOLUME, CONFIG_VOLUME = "ssh-auth", "mpi-job-config"
KEYS = (
    ("ssh-privatekey", "id_rsa"),
    ("ssh-publickey", "id_rsa.pub"),
    ("ssh-publickey", "authorized_keys"),
)
MODES = (("hostfile", 0o444), ("discover_hosts.sh", 0o555))
LABELS = "training.kubeflow.org"


def objects(job: MPIJob) -> list[Object]:
    """Service, ConfigMap, Secret, the first worker, the launcher's Job and its pod.

    Their names are prefixes: a job that runs already has objects with the names themselves. The
    API server enforces pod security on pods only, not on the Job that makes them.
    """
    name, service = job.manifest.name, {"clusterIP": "None", "selector": labels(job)}
    pods = {role: pod_template(job, role) for role in job.by_role}
    policy = job.spec["runPolicy"].mapping
    limits = ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit")
    launcher = {each: policy[each] for each in limits if each in policy}
    launcher |= {"template": pods["Launcher"], "suspend": bool(policy.get("suspend"))}
    host = f"{name}-worker-0.{name}.{job.manifest.namespace}.svc slots={job.slots}\n"
    data = {"hostfile": host, "discover_hosts.sh": "#!/bin/sh\n"}
    keys = {key: "" for key, _ in KEYS}
    made: list[Object] = [
        {"apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": service},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}, "data": data},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "stringData": keys}
        | {"type": "kubernetes.io/ssh-auth"},
        {"apiVersion": "batch/v1", "kind": "Job", "metadata": {}, "spec": launcher},
        *({"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(pods[role])} for role in pods),
    ]
    for each in made:
        each["metadata"] |= {"generateName": f"{name}-", "namespace": job.manifest.namespace}
    return made


def labels(job: MPIJob, role: str = "") -> dict[str, str]:
    found = {f"{LABELS}/operator-name": "mpi-operator", f"{LABELS}/job-name": job.manifest.name}
    return found | ({f"{LABELS}/job-role": role.lower()} if role else {})


def pod_template(job: MPIJob, role: str) -> Object:
    """The template of a role, with what the operator adds."""
    replica = copy.deepcopy(job.manifest.at(*ROLES, role).mapping)
    template, name = replica["template"], job.manifest.name
    spec, metadata = template["spec"], template.setdefault("metadata", {})
    metadata.setdefault("labels", {}).update(labels(job, role))
    suffix = "launcher" if role == "Launcher" else "worker-0"
    spec |= {"hostname": f"{name}-{suffix}", "subdomain": name}
    spec["restartPolicy"] = replica.get("restartPolicy", "Never")
    if role == "Worker":
        metadata["labels"][f"{LABELS}/replica-index"] = "0"
        search = f"{name}.{job.manifest.namespace}.svc.cluster.local"
        spec.setdefault("dnsConfig", {}).setdefault("searches", []).append(search)
    container, added = spec["containers"][0], environment(job, role)
    container.setdefault("env", []).extend({"name": k, "value": v} for k, v in added.items())
    spec.setdefault("volumes", []).extend(volumes(job, role))
    places = [{"name": volume, "mountPath": path} for volume, path in mounts(job, role).items()]
    container.setdefault("volumeMounts", []).extend(places)
    return dict(template)


def environment(job: MPIJob, role: str) -> dict[str, str]:
    """The variables that the operator appends to those of the first container."""
    found = {"K_MPI_JOB_ROLE": role.lower()}
    if role == "Launcher":
        found["OMPI_MCA_orte_keep_fqdn_hostnames"] = "true"
        found["OMPI_MCA_orte_default_hostfile"] = HOSTFILE
        found["OMPI_MCA_plm_rsh_args"] = "-o ConnectionAttempts=10"
        found["OMPI_MCA_orte_set_default_slots"] = str(job.slots)
        if not job.spec["runLauncherAsWorker"]:
            found |= {"NVIDIA_VISIBLE_DEVICES": "", "NVIDIA_DRIVER_CAPABILITIES": ""}
    return found


def mounts(job: MPIJob, role: str) -> dict[str, str]:
    """The paths at which the operator mounts its volumes, by their names."""
    found = {KEY_VOLUME: job.spec["sshAuthMountPath"].text or "/root/.ssh"}
    return found | ({CONFIG_VOLUME: CONFIG_FOLDER} if role == "Launcher" else {})


def volumes(job: MPIJob, role: str) -> list[Object]:
    name = job.manifest.name
    keys = [{"key": key, "path": path} for key, path in KEYS]
    files = [{"key": key, "path": key, "mode": mode} for key, mode in MODES]
    found: list[Object] = [
        {"name": KEY_VOLUME, "secret": {"secretName": f"{name}-ssh", "items": keys}},
        {"name": CONFIG_VOLUME, "configMap": {"name": f"{name}-config", "items": files}},
    ]
    return found if role == "Launcher" else found[:1]
