"""What the operator asks of an MPIJob, and what a Horovod job under it needs.

`kubectl apply` accepts an MPIJob that breaks the first few of these; the operator then writes a ValidationError event,
starts nothing, and says no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from distsent.k8s.bundle import (
    SSH_PORT,
    Bundle,
    MPIJob,
    Pod,
    as_dict,
    as_list,
    mpijobs,
    rule,
    whole,
)
from distsent.k8s.documents import Finding
from distsent.k8s.schema import quantity

ROLES = ("spec", "mpiReplicaSpecs")
GPU = re.compile(r"(nvidia\.com/(gpu|mig-.+)|amd\.com/gpu)")


@rule("launcher-replicas")
def launcher_replicas(bundle: Bundle) -> Iterator[Finding]:
    """The operator refuses any other number of launchers."""
    for job in mpijobs(bundle):
        if job.document.get(*ROLES, "Launcher", "replicas", default=1) != 1:
            yield job.finding(
                "launcher-replicas", "Launcher.replicas must be 1", *ROLES, "Launcher", "replicas"
            )


@rule("worker-replicas")
def worker_replicas(bundle: Bundle) -> Iterator[Finding]:
    """Left out it counts as 0: the launcher would find no host."""
    for job in mpijobs(bundle):
        if job.workers < 1:
            yield job.finding(
                "worker-replicas",
                "Worker.replicas must be given, 1 or more",
                *ROLES,
                "Worker",
                "replicas",
            )


@rule("worker-name")
def worker_name(bundle: Bundle) -> Iterator[Finding]:
    """Worker pods are found by DNS: their names, with the highest index, must be host names."""
    for job in mpijobs(bundle):
        last = f"{job.document.name}-worker-{max(job.workers, 1) - 1}"
        if not re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", last):
            yield job.finding(
                "worker-name",
                f"{last} is no host name (at most 63 small letters, digits and -, a letter first)",
                "metadata",
                "name",
            )


@rule("slots")
def slots(bundle: Bundle) -> Iterator[Finding]:
    """The hostfile's slots come from slotsPerWorker alone; nobody compares them with the GPUs of a worker."""
    for job in mpijobs(bundle):
        if job.slots < 1:
            yield job.finding("slots", "slotsPerWorker must be 1 or more", "spec", "slotsPerWorker")
        gpus = gpus_of(job.worker)
        if gpus is not None and gpus != job.slots:
            yield job.finding(
                "slots",
                f"slotsPerWorker is {job.slots}, but a worker has {gpus} GPUs",
                "spec",
                "slotsPerWorker",
            )
        stated = job.option("--slots") if job.elastic else None
        if stated is not None and stated != str(job.slots):
            yield job.finding(
                "slots",
                f"the command says --slots {stated}, slotsPerWorker is {job.slots}",
                "spec",
                "slotsPerWorker",
            )


@rule("launcher-gpu")
def launcher_gpu(bundle: Bundle) -> Iterator[Finding]:
    """The launcher computes nothing, and the operator hides GPUs from it."""
    for job in mpijobs(bundle):
        if (
            job.launcher
            and gpus_of(job.launcher)
            and not job.document.get("spec", "runLauncherAsWorker")
        ):
            yield job.launcher.finding(
                "launcher-gpu", "reserves GPUs that it cannot use", "containers", 0, "resources"
            )


@rule("processes")
def processes(bundle: Bundle) -> Iterator[Finding]:
    """Fewer processes leave GPUs idle, more are refused by mpirun, after all pods were scheduled."""
    for job in mpijobs(bundle):
        most = job.slots * (job.workers + bool(job.document.get("spec", "runLauncherAsWorker")))
        if job.elastic:
            bounds = {name: number(job.option(name)) for name in ("--min-np", "--max-np")}
            low, high = bounds["--min-np"] or 1, bounds["--max-np"] or most
            if not 1 <= low <= high:
                yield command_finding(
                    job, "processes", f"--min-np {low} is more than --max-np {high}"
                )
            elif low > most:
                yield command_finding(
                    job,
                    "processes",
                    f"--min-np {low}, but there are {job.workers} workers x {job.slots} slots",
                )
            continue
        if not any(word.rpartition("/")[2] in ("horovodrun", "mpirun") for word in job.words):
            continue
        stated = job.option("-np", "--num-proc", "-n")
        if number(stated) != most:
            yield command_finding(
                job,
                "processes",
                f"-np {stated or '(none)'}, but {job.workers} workers x {job.slots} slots are {most} processes",
            )


@rule("hostfile")
def hostfile(bundle: Bundle) -> Iterator[Finding]:
    """Without hosts horovodrun starts all processes in the launcher's pod."""
    for job in mpijobs(bundle):
        horovodrun = any(word.rpartition("/")[2] == "horovodrun" for word in job.words)
        if (
            horovodrun
            and not job.elastic
            and job.option("--hostfile", "-hostfile") != "/etc/mpi/hostfile"
        ):
            yield command_finding(
                job,
                "hostfile",
                "horovodrun needs --hostfile /etc/mpi/hostfile, or all runs in the launcher",
            )
        script = job.option("--elastic", "--host-discovery-script")
        if job.elastic and script != "/etc/mpi/discover_hosts.sh":
            yield command_finding(
                job,
                "hostfile",
                f"the operator's script is /etc/mpi/discover_hosts.sh, not {script}",
            )


@rule("open-mpi")
def open_mpi(bundle: Bundle) -> Iterator[Finding]:
    """The image has Open MPI; for the others the operator writes another hostfile and other variables."""
    for job in mpijobs(bundle):
        if job.document.get("spec", "mpiImplementation", default="OpenMPI") != "OpenMPI":
            yield job.finding(
                "open-mpi",
                "mpiImplementation must be OpenMPI, which the image has",
                "spec",
                "mpiImplementation",
            )


@rule("ssh-path")
def ssh_path(bundle: Bundle) -> Iterator[Finding]:
    """The key is mounted where spec.sshAuthMountPath says: it must be the .ssh folder of the pods' user."""
    for job in mpijobs(bundle):
        path = job.document.get("spec", "sshAuthMountPath", default="/root/.ssh")
        users = {pod.get("securityContext", "runAsUser", default=1000) for pod in job.pods}
        for user in users:
            home = "/root/.ssh" if user == 0 else "/home/mpiuser/.ssh"
            if path != home:
                yield job.finding(
                    "ssh-path",
                    f"user {user} looks for keys in {home}, not in {path}",
                    "spec",
                    "sshAuthMountPath",
                )
        if len(users) > 1:
            yield job.finding(
                "ssh-path",
                "launcher and workers run as different users, whom ssh will not join",
                *ROLES,
            )


@rule("ready")
def ready(bundle: Bundle) -> Iterator[Finding]:
    """WaitForWorkersReady means nothing without a readiness probe on sshd: a running pod counts as ready."""
    for job in mpijobs(bundle):
        if (
            job.document.get("spec", "launcherCreationPolicy") != "WaitForWorkersReady"
            and not job.elastic
        ):
            yield job.finding(
                "ready",
                "launcherCreationPolicy must be WaitForWorkersReady, or the launcher's deadline runs while nodes start",
                "spec",
            )
        if job.worker is None:
            continue
        port = as_dict(as_dict(job.worker.main.get("readinessProbe")).get("tcpSocket")).get("port")
        for one in as_list(job.worker.main.get("ports")):
            if as_dict(one).get("name") == port:
                port = as_dict(one).get("containerPort")
        if port != SSH_PORT:
            yield job.worker.finding(
                "ready",
                f"needs a readinessProbe with tcpSocket on port {SSH_PORT}, sshd's",
                "containers",
                0,
            )


@rule("clean-up")
def clean_up(bundle: Bundle) -> Iterator[Finding]:
    """Workers run sshd for ever: unless they are cleaned up, a finished or failed job keeps their GPUs."""
    for job in mpijobs(bundle):
        if job.document.get("spec", "runPolicy", "cleanPodPolicy", default="None") == "None":
            yield job.finding(
                "clean-up",
                "runPolicy.cleanPodPolicy must be Running (or All)",
                "spec",
                "runPolicy",
                "cleanPodPolicy",
            )


@rule("limits")
def limits(bundle: Bundle) -> Iterator[Finding]:
    """Restarts and time without a bound, or with one that nobody chose."""
    for job in mpijobs(bundle):
        for field in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished"):
            if job.document.get("spec", "runPolicy", field) is None:
                yield job.finding("limits", f"runPolicy.{field} must be given", "spec", "runPolicy")


@rule("restart")
def restart(bundle: Bundle) -> Iterator[Finding]:
    """A stopped launcher carries on when it is restarted; a failed worker is never made anew, only restarted in place."""
    for job in mpijobs(bundle):
        for pod in job.pods:
            if job.document.get(*ROLES, pod.role, "restartPolicy") != "OnFailure":
                yield job.finding(
                    "restart",
                    f"{pod.role}.restartPolicy must be OnFailure",
                    *ROLES,
                    pod.role,
                    "restartPolicy",
                )


@rule("grace")
def grace(bundle: Bundle) -> Iterator[Finding]:
    """Between SIGTERM and SIGKILL a step is finished and a checkpoint written; the default is 30 seconds."""
    for job in mpijobs(bundle):
        for pod in job.pods:
            seconds = whole(pod.get("terminationGracePeriodSeconds"), 30)
            if seconds < 60:
                yield pod.finding(
                    "grace",
                    f"terminationGracePeriodSeconds {seconds} is too short to save; 60 or more",
                    "terminationGracePeriodSeconds",
                )
            words = pod.words()
            asked = number(words[words.index("--grace") + 1]) if "--grace" in words[:-1] else None
            if asked is not None and asked >= seconds:
                yield pod.finding(
                    "grace",
                    f"--grace {asked} must be less than terminationGracePeriodSeconds {seconds}",
                    "containers",
                    0,
                    "command",
                )


@rule("shm")
def shm(bundle: Bundle) -> Iterator[Finding]:
    """64 MB of /dev/shm end in bus errors of NCCL and Open MPI; what it holds counts as the pod's memory."""
    for job in mpijobs(bundle):
        pod = job.worker
        if pod is None:
            continue
        mount = next((one for one in pod.mounts() if one.get("mountPath") == "/dev/shm"), None)
        empty = as_dict(pod.volume(str(mount.get("name"))).get("emptyDir")) if mount else {}
        if empty.get("medium") != "Memory" or quantity(empty.get("sizeLimit")) is None:
            yield pod.finding(
                "shm", "/dev/shm needs an emptyDir with medium: Memory and a sizeLimit", "volumes"
            )
            continue
        memory = quantity(as_dict(as_dict(pod.main.get("resources")).get("limits")).get("memory"))
        if memory is not None and (quantity(empty["sizeLimit"]) or 0) >= memory:
            yield pod.finding(
                "shm",
                "the sizeLimit of /dev/shm counts as memory and leaves none of the limit",
                "volumes",
            )


@rule("worker-env")
def worker_env(bundle: Bundle) -> Iterator[Finding]:
    """mpirun's processes come through sshd, which does not hand on the pod's environment."""
    for job in mpijobs(bundle):
        if job.worker and job.worker.main.get("env"):
            names = ", ".join(
                str(as_dict(one).get("name")) for one in as_list(job.worker.main["env"])
            )
            yield job.worker.finding(
                "worker-env",
                f"{names} will not reach the processes: set it on the launcher",
                "containers",
                0,
                "env",
            )


@rule("gang")
def gang(bundle: Bundle) -> Iterator[Finding]:
    """A gang of fewer than all pods starts jobs that wait for the rest while they hold GPUs."""
    for job in mpijobs(bundle):
        stated = job.document.get("spec", "runPolicy", "schedulingPolicy", "minAvailable")
        if stated is not None and stated != job.workers + 1 and not job.elastic:
            yield job.finding(
                "gang",
                f"minAvailable {stated}, but there are {job.workers + 1} pods",
                "spec",
                "runPolicy",
                "schedulingPolicy",
            )


@rule("queue")
def queue(bundle: Bundle) -> Iterator[Finding]:
    """Kueue admits what is suspended; a job that names a queue but starts by itself jumps it where Kueue's webhook is off."""
    for job in mpijobs(bundle):
        queued = "kueue.x-k8s.io/queue-name" in job.document.get("metadata", "labels", default={})
        if queued and job.document.get("spec", "runPolicy", "suspend") is not True:
            yield job.finding(
                "queue",
                "a job with a queue-name label must have runPolicy.suspend: true",
                "metadata",
                "labels",
            )


@rule("mesh")
def mesh(bundle: Bundle) -> Iterator[Finding]:
    """A mesh's proxy breaks ssh between pods and keeps a finished launcher alive."""
    for job in mpijobs(bundle):
        for pod in job.pods:
            notes = job.document.get(*pod.where, "metadata", "annotations", default={})
            if notes.get("sidecar.istio.io/inject") != "false":
                yield pod.finding("mesh", 'needs the annotation sidecar.istio.io/inject: "false"')


@rule("same-image")
def same_image(bundle: Bundle) -> Iterator[Finding]:
    """horovodrun starts the launcher's own python, by its absolute path, on the workers."""
    for job in mpijobs(bundle):
        if len({str(pod.main.get("image")) for pod in job.pods}) > 1:
            yield job.pods[1].finding(
                "same-image", "must run the launcher's image", "containers", 0, "image"
            )


def command_finding(job: MPIJob, name: str, message: str) -> Finding:
    assert job.launcher is not None
    field = "args" if job.launcher.main.get("args") else "command"
    return job.launcher.finding(name, message, "containers", 0, field)


def gpus_of(pod: Pod | None) -> int | None:
    """GPUs of the main container; None if it does not ask for any."""
    if pod is None:
        return None
    wanted: dict[str, Any] = as_dict(as_dict(pod.main.get("resources")).get("limits"))
    counts = [whole(number(str(value)), 0) for name, value in wanted.items() if GPU.fullmatch(name)]
    return sum(counts) if counts else None


def number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
