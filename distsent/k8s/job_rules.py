"""Rules about jobs, MPIJobs and TrainJobs: what operators demand, and what distsent needs.

`kubectl apply` accepts a job that breaks an operator's rules, but then nothing starts.
"""

import re
import tomllib
from collections.abc import Iterator

from distsent.errors import UserError
from distsent.job import load_saved_job
from distsent.k8s.documents import Problem
from distsent.k8s.jobs import Bundle, Job
from distsent.k8s.mpi_operator import DISCOVERY_SCRIPT, HOSTFILE
from distsent.k8s.schema import quantity
from distsent.pods.training_command import job_arguments, refused_options

SSH_PORT = 2222
HOST_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
CONFIG_MAP = "ConfigMap"
OOB = "OMPI_MCA_oob_tcp_keepalive_"
KEEPALIVE = {"time": "300", "intvl": "20", "probes": "9"}  # Open MPI's defaults, in seconds


def job_problems(bundle: Bundle) -> Iterator[Problem]:
    for job in bundle.jobs:
        for rules in (sizes, processes, pods, disk):
            yield from rules(job)
        if "distsent.train" in job.launcher.command:
            yield from run_folder(job)
            yield from job_file(bundle, job)


def sizes(job: Job) -> Iterator[Problem]:
    # DNS finds the pods, so the longest name must be a host name.
    longest, node = job.longest_name, job.manifest["metadata"]
    if not HOST_NAME.fullmatch(longest):
        allowed = "at most 63 lower-case letters, digits and -, a letter first"
        yield "pod-name", node["name"], f"{longest} is not a host name ({allowed})"
    # The hostfile takes this number; no operator compares it with a worker's GPUs.
    node, gpus, option = job.slots_node, job.worker.gpus, job.launcher.option("--slots")
    name = node.path[-1]
    if gpus not in (None, job.slots):
        yield "slots", node, f"{name} is {job.slots}, but a worker has {gpus} GPUs"
    if job.elastic and option not in (None, str(job.slots)):
        yield "slots", node, f"--slots {option}, but {name} is {job.slots}"
    # A gang of fewer than all pods starts jobs that hold GPUs while they wait for the rest.
    node, count = job.spec.at("runPolicy", "schedulingPolicy", "minAvailable"), job.workers + 1
    if node.value not in (None, count) and not job.elastic:
        yield "gang", node, f"minAvailable {node.value}, but there are {count} pods"


def processes(job: Job) -> Iterator[Problem]:
    """Fewer processes leave GPUs idle; mpirun refuses more, after all pods were scheduled."""
    option, node = job.launcher.option, job.launcher.command_node
    for problem in refused_options(job.launcher.command):
        yield "gloo", node, problem
    most = job.slots * (job.workers + bool(job.spec["runLauncherAsWorker"]))
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
        given, hostfile = option("-np", "--num-proc", "-n"), option("--hostfile", "-hostfile")
        # The launcher's first process counts the slots of the hostfile where there is no -np.
        if number(given) != most and (given or "distsent.k8s" not in job.launcher.command):
            yield "processes", node, f"-np {given or '(none)'}, but {size} are {most} processes"
        if "horovodrun" in job.programs and hostfile != HOSTFILE:
            yield "hostfile", node, f"without --hostfile {HOSTFILE} all runs in the launcher"
    elif job.uses_mpi and "distsent.train" in job.launcher.command:
        yield "processes", node, "without horovodrun all runs in the launcher"


def pods(job: Job) -> Iterator[Problem]:
    # The launcher waits for ready workers, and without a probe of sshd a running pod is ready.
    main = job.worker.main
    ports = {port["name"].value: port["containerPort"].value for port in main["ports"]}
    port = main.at("readinessProbe", "tcpSocket", "port").value
    if main and job.uses_mpi and ports.get(port, port) != SSH_PORT:
        yield "ready", main, f"needs a readinessProbe with tcpSocket on sshd's port {SSH_PORT}"
    # sshd starts mpirun's processes, and it does not pass the pod's environment on.
    names = ", ".join(variable["name"].text for variable in main["env"])
    if names and job.uses_mpi:
        yield "worker-env", main["env"], f"set {names} on the launcher: no process gets it here"
    # The pod must be there until its ranks have saved.
    for pod in job.pods:
        seconds, node = pod.spec["terminationGracePeriodSeconds"].number(30), pod.main["command"]
        option, limit = number(pod.option("--grace")), f"terminationGracePeriodSeconds {seconds}"
        if option is not None and option >= seconds:
            yield "grace", node, f"--grace {option} must be less than {limit}"
    # 64 MB of /dev/shm give bus errors in NCCL and Open MPI; its content counts as memory.
    node, volume = job.worker.spec["volumes"], job.worker.volume_at("/dev/shm")[1]["emptyDir"]
    memory = quantity(job.worker.main.at("resources", "limits", "memory").value)
    size = quantity(volume["sizeLimit"].value)
    if job.worker.spec and (volume["medium"].value != "Memory" or size is None):
        yield "shm", node, "/dev/shm needs an emptyDir with medium: Memory and a sizeLimit"
    elif size is not None and memory is not None and size >= memory:
        yield "shm", node, "/dev/shm counts as memory, and its sizeLimit leaves none of the limit"
    # horovodrun starts the launcher's own python, by its absolute path, on the workers.
    ours, theirs = job.launcher.image, job.worker.image
    if ours and theirs and ours.text != theirs.text:
        yield "same-image", theirs, f"must be the launcher's image, {ours.text}"


def disk(job: Job) -> Iterator[Problem]:
    """The kubelet evicts a pod that writes more than its limits; an evicted worker ends the job."""
    home = job.launcher.variables.get("HF_HOME") or "/"
    needs = ("/tmp", 1, "temporary files"), (home, 10, "what is downloaded")
    for pod in job.pods:
        node, sizes = pod.spec["volumes"], [v["emptyDir"]["sizeLimit"] for v in pod.spec["volumes"]]
        for path, least, what in needs:
            volume = pod.volume_at(path)[1]["emptyDir"]
            size = quantity(volume["sizeLimit"].value)
            if volume["medium"].value != "Memory" and size is not None and size < least * 2**30:
                yield "disk", node, f"{path} needs a sizeLimit of {least}Gi or more, for {what}"
        limit = quantity(pod.main.at("resources", "limits", "ephemeral-storage").value)
        total = sum(quantity(size.value) or 0 for size in sizes)
        if limit is not None and limit < total:
            text = "limits.ephemeral-storage is less than the sizeLimits of its volumes"
            yield "disk", node, text


def number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def run_folder(job: Job) -> Iterator[Problem]:
    """A run in a pod's own files is lost with the pod: nothing to resume, nothing to read."""
    launcher = job.launcher
    folder = next((word[8:] for word in launcher.command if word.startswith("run.dir=")), None)
    if folder is None:
        yield "run-folder", launcher.command_node, "run.dir=... is missing: a pod loses its files"
        return
    claims = set()
    for pod in job.pods:
        mount, volume, _ = pod.volume_at(folder)
        claim = volume["persistentVolumeClaim"]
        claims.add(claim["claimName"].text)
        if not claim:
            yield "run-folder", pod.mounts, f"run.dir={folder} is not on a claim"
        elif mount["readOnly"] or claim["readOnly"]:
            yield "run-folder", pod.mounts, f"run.dir={folder} is mounted read-only"
    if len(claims) > 1:
        text = f"launcher and workers have different claims at {folder}"
        yield "run-folder", launcher.mounts, text


def job_file(bundle: Bundle, job: Job) -> Iterator[Problem]:
    """Every worker reads the job file: a ConfigMap must provide it, and it must be a job."""
    path, overrides = job_arguments(job.launcher.command)
    text = ""
    if path and job.worker.spec:
        mount, volume, key = job.worker.volume_at(path)
        name, mounts = volume.at("configMap", "name").text, job.worker.mounts
        if not name:
            yield "job-file", mounts, f"nothing is mounted at {path} from a ConfigMap"
        config = bundle.find(CONFIG_MAP, job.manifest.namespace, name)
        if config is None:
            return  # the rule `exists` reports a missing ConfigMap
        key, items = mount["subPath"].text or key, volume.at("configMap", "items")
        key = next((item["key"].text for item in items if item["path"].text == key), key)
        data, node = config["data"], job.worker.spec["volumes"]
        if key not in data.mapping:
            yield "job-file", node, f"{path}: the ConfigMap {name} has no {key} ({data.place})"
            return
        text = data[key].text
    try:
        loaded = load_saved_job(tomllib.loads(text), path or "the demo job", overrides)
    except (UserError, tomllib.TOMLDecodeError) as error:
        for line in str(error).splitlines():
            yield "job-file", job.launcher.command_node, line
        return
    if job.uses_mpi:
        yield from keepalive(job, loaded.run.stall_seconds)


def keepalive(job: Job, stall_seconds: float) -> Iterator[Problem]:
    """mpirun must give a vanished node up before the workers do: then it aborts the others."""
    node, given = job.launcher.main["env"], job.launcher.variables
    first, between, probes = (number(given.get(OOB + k, v)) or 0 for k, v in KEEPALIVE.items())
    total = first + between * probes
    if not total or total > stall_seconds / 2:
        half = f"more than half of run.stall_seconds = {stall_seconds:g}"
        text = f"TCP keepalive takes {total} s ({first} + {probes} x {between})"
        yield "keepalive", node, f"{text}, {half}"
