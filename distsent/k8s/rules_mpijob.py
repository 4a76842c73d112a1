"""What the operator demands of an MPIJob, and what a Horovod job in it needs.

`kubectl apply` accepts an MPIJob that breaks the first few of these rules. The operator then
writes a ValidationError event and starts nothing. A rule's docstring is its reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from distsent.k8s.bundle import MPIJob, Pod, Problem
from distsent.k8s.schema import quantity

SSH_PORT = 2222
HOSTFILE, DISCOVERY_SCRIPT = "/etc/mpi/hostfile", "/etc/mpi/discover_hosts.sh"
GPU = re.compile(r"(nvidia\.com/(gpu|mig-.+)|amd\.com/gpu)")
HOST_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def worker_name(job: MPIJob) -> Iterator[Problem]:
    """DNS finds worker pods, so the name with the highest index must be a host name."""
    last = f"{job.document.name}-worker-{max(job.workers, 1) - 1}"
    if not HOST_NAME.fullmatch(last):
        allowed = "at most 63 lower-case letters, digits and -, starting with a letter"
        yield job.document.metadata["name"], f"{last} is not a host name ({allowed})"


def slots(job: MPIJob) -> Iterator[Problem]:
    """The hostfile takes slotsPerWorker; the operator does not compare it with a worker's GPUs."""
    node, gpus, option = job.spec["slotsPerWorker"], gpus_of(job.worker), None
    if gpus not in (None, job.slots):
        yield node, f"slotsPerWorker is {job.slots}, but a worker has {gpus} GPUs"
    option = job.launcher.option("--slots")
    if job.elastic and option not in (None, str(job.slots)):
        yield node, f"the command has --slots {option}, but slotsPerWorker is {job.slots}"


def launcher_gpu(job: MPIJob) -> Iterator[Problem]:
    """The launcher computes nothing, and the operator hides GPUs from it."""
    if gpus_of(job.launcher) and not job.launcher_works:
        yield job.launcher.main["resources"], "reserves GPUs that it cannot use"


def processes(job: MPIJob) -> Iterator[Problem]:
    """Fewer processes leave GPUs idle; mpirun refuses more, after all pods were scheduled."""
    launcher, node = job.launcher, job.launcher.command_node
    most, size = (
        job.slots * (job.workers + job.launcher_works),
        f"{job.workers} workers x {job.slots} slots",
    )
    if job.elastic:
        low = number(launcher.option("--min-np")) or 1
        high = number(launcher.option("--max-np")) or most
        if low > high:
            yield node, f"--min-np {low} is more than --max-np {high}"
        elif low > most:
            yield node, f"--min-np {low}, but there are {size}"
    elif not job.programs.isdisjoint(("horovodrun", "mpirun")):
        option = launcher.option("-np", "--num-proc", "-n")
        if number(option) != most:
            yield node, f"-np {option or '(none)'}, but {size} are {most} processes"


def hostfile(job: MPIJob) -> Iterator[Problem]:
    """Without hosts horovodrun starts all processes in the launcher's pod."""
    launcher, node = job.launcher, job.launcher.command_node
    script = launcher.option("--elastic", "--host-discovery-script")
    if job.elastic and script != DISCOVERY_SCRIPT:
        yield node, f"the operator's script is {DISCOVERY_SCRIPT}, not {script}"
    needed = "horovodrun" in job.programs and not job.elastic
    if needed and launcher.option("--hostfile", "-hostfile") != HOSTFILE:
        yield node, f"horovodrun needs --hostfile {HOSTFILE}, or all runs in the launcher"


def ssh_path(job: MPIJob) -> Iterator[Problem]:
    """The key is mounted at sshAuthMountPath: it must be the .ssh folder of the pods' user."""
    path = job.spec["sshAuthMountPath"].text or "/root/.ssh"
    users = {pod.spec.at("securityContext", "runAsUser").number(1000) for pod in job.pods}
    for user in users:
        home = "/root/.ssh" if user == 0 else "/home/mpiuser/.ssh"
        if path != home:
            message = f"user {user} looks for keys in {home}, not in {path}"
            yield job.spec["sshAuthMountPath"], message
    if len(users) > 1:
        message = "launcher and workers run as different users, so ssh between them fails"
        yield job.spec["mpiReplicaSpecs"], message


def ready(job: MPIJob) -> Iterator[Problem]:
    """The launcher waits for ready workers, and without a probe of sshd a running pod is ready."""
    policy, main = job.spec["launcherCreationPolicy"], job.worker.main
    if policy.value != "WaitForWorkersReady" and not job.elastic:
        why = "or the launcher's deadline runs while nodes start"
        yield policy, f"launcherCreationPolicy must be WaitForWorkersReady, {why}"
    ports = {port["name"].value: port["containerPort"].value for port in main["ports"]}
    port = main.at("readinessProbe", "tcpSocket", "port").value
    if main and ports.get(port, port) != SSH_PORT:
        yield main, f"needs a readinessProbe with tcpSocket on sshd's port {SSH_PORT}"


def grace(job: MPIJob) -> Iterator[Problem]:
    """The pod must be there until its ranks have saved."""
    for pod in job.pods:
        seconds = pod.spec["terminationGracePeriodSeconds"].number(30)
        option = number(pod.option("--grace"))
        if option is not None and option >= seconds:
            message = f"--grace {option} must be less than terminationGracePeriodSeconds {seconds}"
            yield pod.main["command"], message


def shm(job: MPIJob) -> Iterator[Problem]:
    """64 MB of /dev/shm give bus errors in NCCL and Open MPI; its content counts as memory."""
    node, found = job.worker.spec["volumes"], job.worker.mount_of("/dev/shm")
    name = found[0]["name"].text if found else ""
    volume = job.worker.volume(name)["emptyDir"].mapping
    size = quantity(volume.get("sizeLimit"))
    memory = quantity(job.worker.main.at("resources", "limits", "memory").value)
    if job.worker.spec and (volume.get("medium") != "Memory" or size is None):
        yield node, "/dev/shm needs an emptyDir with medium: Memory and a sizeLimit"
    elif size is not None and memory is not None and size >= memory:
        yield node, "the sizeLimit of /dev/shm counts as memory and leaves none of the limit"


def worker_env(job: MPIJob) -> Iterator[Problem]:
    """sshd starts mpirun's processes, and it does not pass the pod's environment on."""
    names = ", ".join(variable["name"].text for variable in job.worker.main["env"])
    if names:
        message = f"{names} will not reach the processes: set it on the launcher"
        yield job.worker.main["env"], message


def gang(job: MPIJob) -> Iterator[Problem]:
    """A gang of fewer than all pods starts jobs that hold GPUs while they wait for the rest."""
    node, pods = job.spec.at("runPolicy", "schedulingPolicy", "minAvailable"), job.workers + 1
    if node.value not in (None, pods) and not job.elastic:
        yield node, f"minAvailable {node.value}, but there are {pods} pods"


def queue(job: MPIJob) -> Iterator[Problem]:
    """Kueue admits suspended jobs; without its webhook, others start out of turn."""
    labels, suspend = job.document.metadata["labels"], job.spec.at("runPolicy", "suspend")
    if labels["kueue.x-k8s.io/queue-name"] and suspend.value is not True:
        yield labels, "a job with a queue-name label must have runPolicy.suspend: true"


def same_image(job: MPIJob) -> Iterator[Problem]:
    """horovodrun starts the launcher's own python, by its absolute path, on the workers."""
    images = [pod.main["image"] for pod in job.pods]
    if images[0].text != images[-1].text:
        yield images[-1], "must be the launcher's image"


def gpus_of(pod: Pod) -> int | None:
    """GPUs of the main container; None if it asks for none."""
    limits = pod.main.at("resources", "limits")
    counts = [limits[name].number(0) for name in limits.mapping if GPU.fullmatch(name)]
    return sum(counts) if counts else None


def number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


RULES = (
    worker_name, slots, launcher_gpu, processes, hostfile, ssh_path, ready, grace, shm, worker_env,
    gang, queue, same_image,
)  # fmt: skip
