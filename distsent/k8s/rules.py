"""Rules about MPIJobs and pods: what the operator and the cluster demand, what Horovod needs.

`kubectl apply` accepts an MPIJob that breaks the operator's rules. The operator then writes a
ValidationError event and starts nothing.
"""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from distsent.k8s.bundle import ROLES, Bundle, MPIJob, Pod, Problem
from distsent.k8s.schema import quantity

SSH_PORT = 2222
HOSTFILE, DISCOVERY_SCRIPT = "/etc/mpi/hostfile", "/etc/mpi/discover_hosts.sh"
GPU = re.compile(r"(nvidia\.com/(gpu|mig-.+)|amd\.com/gpu)")
HOST_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
PROBES, HANDLERS = ("readinessProbe", "livenessProbe", "startupProbe"), ("tcpSocket", "httpGet")
FIELD_RULES: dict[str, list[dict[str, Any]]] = yaml.safe_load(
    Path(__file__).with_name("field_rules.yaml").read_text(encoding="utf-8")
)


def field_problems(bundle: Bundle) -> Iterator[Problem]:
    """What breaks the rules of field_rules.yaml."""
    jobs, pods = [job.manifest for job in bundle.mpijobs], [pod.spec for pod in bundle.pods]
    roles = [job.at(*ROLES, role) for job in jobs for role in job.at(*ROLES).mapping]
    containers = [container for pod in bundle.pods for container in pod.containers]
    objects = {"MPIJob": jobs, "role": roles, "pod": pods, "container": containers}
    for kind, rules in FIELD_RULES.items():
        for node, rule in product(objects[kind], rules):
            field, path = node.at(*rule["field"].split()), rule["field"].replace(" ", ".")
            if not Draft202012Validator(rule["schema"]).is_valid(field.value):
                name = f"{node['name'].text}: " if kind == "container" else ""
                yield rule["rule"], field, f"{name}{path} {rule['message']}"


def pod_problems(bundle: Bundle) -> Iterator[Problem]:
    for pod in bundle.pods:
        # The API server refuses a mount without a volume: in an MPIJob when it creates the pods.
        names = [volume["name"].text for volume in pod.spec["volumes"]]
        mounts = [mount["name"] for each in pod.containers for mount in each["volumeMounts"]]
        for mount in mounts:
            if mount.text not in names:
                yield "volumes", mount, f"no volume {mount.text} for this mount"
        for index, volume in enumerate(pod.spec["volumes"]):
            if names[index] in names[:index]:
                yield "volumes", volume, f"two volumes are named {names[index]}"
            elif names[index] not in [mount.text for mount in mounts]:
                yield "volumes", volume, f"nothing mounts the volume {names[index]}"
        # The API server refuses a request above the limit.
        for container in pod.containers:
            node, name = container["resources"], container["name"].text
            for each, limit in node["limits"].mapping.items():
                if (quantity(node.at("requests", each).value) or 0) > (quantity(limit) or 0):
                    yield "resources", node, f"{name}: requests more {each} than its limit"
        # With a probe of a port name that no port has the pod never becomes ready.
        for container, probe, handler in product(pod.containers, PROBES, HANDLERS):
            port = container.at(probe, handler, "port")
            known = [other["name"].value for other in container["ports"]]
            if isinstance(port.value, str) and port.value not in known:
                yield "ports", port, f"{probe} uses port {port.value}, but no port has that name"


def mpijob_problems(bundle: Bundle) -> Iterator[Problem]:
    for job, rules in product(bundle.mpijobs, (sizes, processes, ssh, pods)):
        yield from rules(job)


def sizes(job: MPIJob) -> Iterator[Problem]:
    # DNS finds worker pods, so the name with the highest index must be a host name.
    last = f"{job.manifest.name}-worker-{max(job.workers, 1) - 1}"
    if not HOST_NAME.fullmatch(last):
        allowed = "1 to 63 lower-case letters, digits and -, a letter first"
        name = job.manifest.at("metadata", "name")
        yield "worker-name", name, f"{last} is not a host name ({allowed})"
    # The hostfile takes slotsPerWorker; the operator does not compare it with a worker's GPUs.
    node, gpus, option = (
        job.spec["slotsPerWorker"],
        gpus_of(job.worker),
        job.launcher.option("--slots"),
    )
    if gpus not in (None, job.slots):
        yield "slots", node, f"slotsPerWorker is {job.slots}, but a worker has {gpus} GPUs"
    if job.elastic and option not in (None, str(job.slots)):
        yield "slots", node, f"--slots {option}, but slotsPerWorker is {job.slots}"
    # The launcher computes nothing, and the operator hides GPUs from it.
    if gpus_of(job.launcher) and not job.launcher_works:
        yield "launcher-gpu", job.launcher.main["resources"], "reserves GPUs that it cannot use"
    # A gang of fewer than all pods starts jobs that hold GPUs while they wait for the rest.
    node, count = job.spec.at("runPolicy", "schedulingPolicy", "minAvailable"), job.workers + 1
    if node.value not in (None, count) and not job.elastic:
        yield "gang", node, f"minAvailable {node.value}, but there are {count} pods"


def processes(job: MPIJob) -> Iterator[Problem]:
    """Fewer processes leave GPUs idle; mpirun refuses more, after all pods were scheduled."""
    option, node = job.launcher.option, job.launcher.command_node
    most = job.slots * (job.workers + job.launcher_works)
    size = f"{job.workers} workers x {job.slots} slots"
    if job.elastic:
        low, high = number(option("--min-np")) or 1, number(option("--max-np")) or most
        script = option("--elastic", "--host-discovery-script")
        if low > high:
            yield "processes", node, f"--min-np {low} is more than --max-np {high}"
        elif low > most:
            yield "processes", node, f"--min-np {low}, but there are {size}"
        if script != DISCOVERY_SCRIPT:
            yield "hostfile", node, f"the operator's script is {DISCOVERY_SCRIPT}, not {script}"
    elif not job.programs.isdisjoint(("horovodrun", "mpirun")):
        given, is_horovodrun = option("-np", "--num-proc", "-n"), "horovodrun" in job.programs
        if number(given) != most:
            yield "processes", node, f"-np {given or '(none)'}, but {size} are {most} processes"
        if is_horovodrun and option("--hostfile", "-hostfile") != HOSTFILE:
            yield "hostfile", node, f"without --hostfile {HOSTFILE} all runs in the launcher"


def ssh(job: MPIJob) -> Iterator[Problem]:
    # The key is mounted at sshAuthMountPath: it must be the .ssh folder of the pods' user.
    node, main = job.spec["sshAuthMountPath"], job.worker.main
    path = node.text or "/root/.ssh"
    users = {pod.spec.at("securityContext", "runAsUser").number(1000) for pod in job.pods}
    for user in users:
        home = "/root/.ssh" if user == 0 else "/home/mpiuser/.ssh"
        if path != home:
            yield "ssh-path", node, f"user {user} looks for keys in {home}, not in {path}"
    if len(users) > 1:
        yield "ssh-path", job.spec["mpiReplicaSpecs"], "ssh needs the same user in all pods"
    # The launcher waits for ready workers, and without a probe of sshd a running pod is ready.
    policy = job.spec["launcherCreationPolicy"]
    if policy.value != "WaitForWorkersReady" and not job.elastic:
        # Otherwise the launcher's deadline runs while nodes start.
        yield "ready", policy, "launcherCreationPolicy must be WaitForWorkersReady"
    ports = {port["name"].value: port["containerPort"].value for port in main["ports"]}
    port = main.at("readinessProbe", "tcpSocket", "port").value
    if main and ports.get(port, port) != SSH_PORT:
        yield "ready", main, f"needs a readinessProbe with tcpSocket on sshd's port {SSH_PORT}"
    # sshd starts mpirun's processes, and it does not pass the pod's environment on.
    names = ", ".join(variable["name"].text for variable in main["env"])
    if names:
        yield "worker-env", main["env"], f"set {names} on the launcher: no process gets it here"


def pods(job: MPIJob) -> Iterator[Problem]:
    # The pod must be there until its ranks have saved.
    for pod in job.pods:
        seconds = pod.spec["terminationGracePeriodSeconds"].number(30)
        option = number(pod.option("--grace"))
        if option is not None and option >= seconds:
            message = f"terminationGracePeriodSeconds {seconds}"
            yield "grace", pod.main["command"], f"--grace {option} must be less than {message}"
    # 64 MB of /dev/shm give bus errors in NCCL and Open MPI; its content counts as memory.
    node, volume = job.worker.spec["volumes"], job.worker.volume_at("/dev/shm")[1]["emptyDir"]
    memory = quantity(job.worker.main.at("resources", "limits", "memory").value)
    size = quantity(volume["sizeLimit"].value)
    if job.worker.spec and (volume["medium"].value != "Memory" or size is None):
        yield "shm", node, "/dev/shm needs an emptyDir with medium: Memory and a sizeLimit"
    elif size is not None and memory is not None and size >= memory:
        yield "shm", node, "/dev/shm counts as memory, and its sizeLimit leaves none of the limit"
    # Kueue admits suspended jobs; without its webhook, others start out of turn.
    labels, suspend = job.manifest.at("metadata", "labels"), job.spec.at("runPolicy", "suspend")
    if labels["kueue.x-k8s.io/queue-name"] and suspend.value is not True:
        yield "queue", labels, "a job with a queue-name label must have runPolicy.suspend: true"
    # horovodrun starts the launcher's own python, by its absolute path, on the workers.
    images = [pod.main["image"] for pod in job.pods]
    if images[0].text != images[-1].text:
        yield "same-image", images[-1], "must be the launcher's image"


def gpus_of(pod: Pod) -> int | None:
    """GPUs of the main container; None if it asks for none."""
    limits = pod.main.at("resources", "limits")
    counts = [limits[name].number(0) for name in limits.mapping if GPU.fullmatch(name)]
    return sum(counts) if counts else None


def number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
