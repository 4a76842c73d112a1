"""Runs a manifest with podman, as Kubernetes and the MPI operator (v2beta1) would.

Names, network, key, hostfile, volumes, user, environment and rights come from the manifest alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from hold import Hold
from image_machine import NETWORK, Machine
from patience import wait_for

OPERATOR_LAUNCHER = {
    "K_MPI_JOB_ROLE": "launcher",
    "OMPI_MCA_orte_keep_fqdn_hostnames": "true",
    "OMPI_MCA_orte_default_hostfile": "/etc/mpi/hostfile",
    "OMPI_MCA_plm_rsh_args": "-o ConnectionAttempts=10",
    "NVIDIA_VISIBLE_DEVICES": "",
    "NVIDIA_DRIVER_CAPABILITIES": "",
}
Document = dict[str, Any]
UNITS = {"Ki": "k", "Mi": "m", "Gi": "g"}


def load(path: Path) -> dict[tuple[str, str], Document]:
    """The documents of a manifest by kind and name."""
    documents = [one for one in yaml.safe_load_all(path.read_text()) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


class Pod:
    """One pod: a network namespace, and a container that may be started more than once."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        address: str,
        template: Document,
        image: str,
        folder: Path,
    ) -> None:
        self.machine, self.name, self.address = machine, name, address
        self.image, self.folder = image, folder
        self.spec = template["spec"]
        self.container = self.spec["containers"][0]
        # The operator's mounts: folder, path inside, read-only.
        self.mounts: list[tuple[Path, str, bool]] = []
        self.env: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        self.sources: dict[str, Path] = {}  # folders of claims and ConfigMaps by name
        self.starts = 0

    @property
    def grace(self) -> int:
        return int(self.spec.get("terminationGracePeriodSeconds", 30))

    def start(self) -> None:
        self.machine.join(self.name, self.address)
        self.machine.podman("rm", "--force", "--ignore", self.name)
        self.starts += 1
        log = self.folder / f"{self.name}.{self.starts}.log"
        hosts = {**self.hosts, self.name: self.address}
        self.machine.podman(
            *("run", "--detach", "--name", self.name, "--hostname", self.name),
            *("--network", f"ns:/run/netns/{self.name}", "--pull", "never", "--passwd=false"),
            *("--cgroups", "disabled", "--no-healthcheck", "--stop-timeout", str(self.grace)),
            *("--log-driver", "k8s-file", "--log-opt", f"path={log}"),
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),
            *self.identity(),
            *self.environment(),
            *self.volumes(),
            *(f"--add-host={name}:{address}" for name, address in hosts.items()),
            self.image,
            *self.container.get("command", []),
            *self.container.get("args", []),
        )

    def identity(self) -> list[str]:
        """User and rights: the container's, or else the pod's."""
        pod, own = self.spec.get("securityContext", {}), self.container.get("securityContext", {})
        user = own.get("runAsUser", pod.get("runAsUser", 0))
        group = own.get("runAsGroup", pod.get("runAsGroup", 0))
        assert user or not pod.get("runAsNonRoot"), "the kubelet refuses to start it"
        words = ["--user", f"{user}:{group}"]
        if "fsGroup" in pod:
            words += ["--group-add", str(pod["fsGroup"])]
        for name in own.get("capabilities", {}).get("drop", []):
            words += ["--cap-drop", name]
        if own.get("allowPrivilegeEscalation") is False:
            words += ["--security-opt", "no-new-privileges"]
        if own.get("readOnlyRootFilesystem"):
            words += ["--read-only", "--read-only-tmpfs=false"]
        return words

    def environment(self) -> list[str]:
        stated = {one["name"]: one["value"] for one in self.container.get("env", [])}
        return [f"--env={name}={value}" for name, value in {**stated, **self.env}.items()]

    def volumes(self) -> list[str]:
        words, group = [], self.spec.get("securityContext", {}).get("fsGroup")
        mounts = self.mounts.copy()
        volumes = {one["name"]: one for one in self.spec.get("volumes", [])}
        for mount in self.container.get("volumeMounts", []):
            volume, path = volumes[mount["name"]], mount["mountPath"]
            empty = volume.get("emptyDir")
            if empty is not None and empty.get("medium") == "Memory":
                size = empty["sizeLimit"][:-2] + UNITS[empty["sizeLimit"][-2:]]
                options = f"tmpfs-mode=1777,tmpfs-size={size}"
                words += ["--mount", f"type=tmpfs,destination={path},{options}"]
                continue
            if empty is not None:
                folder = self.folder / "volumes" / self.name / mount["name"]
                folder.mkdir(parents=True, exist_ok=True)
                share(folder, group, 0o2777)
            else:
                source = volume.get("persistentVolumeClaim") or volume.get("configMap")
                folder = self.sources[source.get("claimName") or source["name"]]
            claim = volume.get("persistentVolumeClaim", {})
            read_only = mount.get("readOnly") or claim.get("readOnly") or "configMap" in volume
            mounts.append((folder, path, bool(read_only)))
        for folder, path, read_only in mounts:
            words.append(f"--volume={folder}:{path}:{'ro' if read_only else 'rw'}")
        return words

    def running(self) -> bool:
        words = ("inspect", "--format", "{{.State.Running}}", self.name)
        return self.machine.podman(*words, check=False).stdout.strip() == "true"

    def exit_code(self, seconds: float = 300) -> int:
        """Wait until it has ended."""
        wait_for(f"{self.name} ends", lambda: not self.running(), seconds, self.log)
        words = ("inspect", "--format", "{{.State.ExitCode}}", self.name)
        return int(self.machine.podman(*words).stdout)

    def terminate(self) -> None:
        """Send SIGTERM to the first process, as the kubelet does to an evicted or deleted pod."""
        self.machine.podman("kill", "--signal", "TERM", self.name)

    def kill(self) -> None:
        self.machine.podman("kill", "--signal", "KILL", self.name)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.podman("exec", self.name, *words, check=check)

    def log(self) -> str:
        files = sorted(self.folder.glob(f"{self.name}.*.log"))
        lines = [line for path in files for line in path.read_text(errors="replace").splitlines()]
        return "\n".join(line.split(" ", 3)[-1] for line in lines)


class Cluster:
    """A namespace with one MPIJob, run as the operator runs it."""

    def __init__(
        self, machine: Machine, image: str, folder: Path, job: Document, config: Document
    ) -> None:
        self.machine, self.folder, self.job = machine, folder, job
        folder.mkdir(parents=True, exist_ok=True)
        spec, self.name = job["spec"], job["metadata"]["name"]
        roles = spec["mpiReplicaSpecs"]
        group = roles["Worker"]["template"]["spec"]["securityContext"]["fsGroup"]
        self.claim = folder / "claim"
        self.claim.mkdir()
        share(self.claim, group, 0o2775)
        self.etc, key = folder / "etc-mpi", make_key(folder / "key", group)
        files = config_map(folder / "config", config["data"])
        sources = {"shared": self.claim, config["metadata"]["name"]: files}

        def new_pod(role: str, name: str, number: int) -> Pod:
            template, address = roles[role]["template"], f"{NETWORK}.{number}"
            return Pod(machine, f"{self.name}-{name}", address, template, image, folder)

        indices = range(roles["Worker"]["replicas"])
        self.workers = [new_pod("Worker", f"worker-{index}", 10 + index) for index in indices]
        self.launcher = new_pod("Launcher", "launcher", 9)
        self.hold = Hold(self.claim / ".hold", seen_as="/shared/.hold")
        slots = {"OMPI_MCA_orte_set_default_slots": str(spec["slotsPerWorker"])}
        self.launcher.env = {**OPERATOR_LAUNCHER, **slots, **self.hold.env}
        where = f"{self.name}.{job['metadata']['namespace']}.svc"
        names = {f"{pod.name}.{where}": pod.address for pod in self.workers}
        self.write_hosts([f"{pod.name}.{where}" for pod in self.workers], spec["slotsPerWorker"])
        for pod in (*self.workers, self.launcher):
            pod.sources, pod.hosts = sources, names
            pod.mounts.append((key, spec["sshAuthMountPath"], True))
            if pod is not self.launcher:
                pod.env = {"K_MPI_JOB_ROLE": "worker"}
        self.launcher.mounts.append((self.etc, "/etc/mpi", True))
        self._where, self._slots = where, spec["slotsPerWorker"]

    def write_hosts(self, names: list[str], slots: int) -> None:
        """Write the operator's ConfigMap: hosts with slots, and a script that prints the hosts."""
        script = "#!/bin/sh\n" + "".join(f"echo {name}\n" for name in names)
        self.etc.mkdir(exist_ok=True)
        hosts = "".join(f"{host} slots={slots}\n" for host in names)
        files = (("hostfile", hosts, 0o444), ("discover_hosts.sh", script, 0o555))
        for name, text, mode in files:
            new = self.etc / f".{name}"
            new.write_text(text)
            new.chmod(mode)
            new.replace(self.etc / name)

    def show(self, *workers: Pod) -> None:
        """Let discover_hosts.sh print these workers."""
        self.write_hosts([f"{pod.name}.{self._where}" for pod in workers], self._slots)

    def ready(self, pod: Pod) -> bool:
        """The manifest's own readiness probe."""
        port = pod.container["readinessProbe"]["tcpSocket"]["port"]
        numbers = {one["name"]: one["containerPort"] for one in pod.container["ports"]}
        return self.machine.answers(pod.address, numbers.get(port, port))

    def start(self) -> None:
        """Start the workers, and the launcher when they are ready (WaitForWorkersReady)."""
        for pod in self.workers:
            pod.start()
        for pod in self.workers:
            wait_for(f"{pod.name} is ready", lambda pod=pod: self.ready(pod), 120, pod.log)
        self.launcher.start()

    def result(self) -> dict[str, Any]:
        return json.loads((self.claim / "runs" / self.name / "result.json").read_text())

    def status(self) -> str:
        path = self.claim / "runs" / self.name / "status.json"
        found = json.loads(path.read_text()) if path.exists() else None
        return f"{found['state']}: {found['message']}" if found else ""

    def steps(self) -> int:
        """The last step in the run's metrics."""
        path = self.claim / "runs" / self.name / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return max((json.loads(line).get("step", 0) for line in lines), default=0)

    def wait_for_step(self, step: int, seconds: float = 300) -> None:
        def is_over() -> bool:
            return self.steps() >= step or not self.launcher.running()

        wait_for(f"step {step}", is_over, seconds, self.launcher.log)
        assert self.steps() >= step, self.launcher.log()

    def start_and_hold(self, step: int) -> None:
        """Start the job, and pause the run after so many steps."""
        self.hold.at(step)
        self.start()
        self.wait_for_step(step)

    def release_after_stop_request(self) -> None:
        """Wait until a worker has received a stop request, and release all workers."""
        wait_for("a worker has received a stop request", self.hold.heard, 120, self.launcher.log)
        self.hold.free()

    def checkpoint(self, step: int) -> bool:
        return (self.claim / "runs" / self.name / "checkpoints" / f"step-{step:08d}").is_dir()

    def close(self) -> None:
        for pod in (self.launcher, *self.workers):
            self.machine.podman("rm", "--force", "--ignore", "--time", "0", pod.name, check=False)
            self.machine.leave(pod.name)


def share(path: Path, group: int | None, mode: int) -> None:
    """Change the group and the mode of a volume, as fsGroup does."""
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)


def make_key(folder: Path, group: int | None) -> Path:
    """The secret `<job>-ssh`, as the kubelet mounts it: root's, readable by the group."""
    folder.mkdir()
    words = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", ""]
    subprocess.run([*words, "-f", str(folder / "id_rsa")], check=True)
    shutil.copy(folder / "id_rsa.pub", folder / "authorized_keys")
    for path in folder.iterdir():
        share(path, group, 0o644)
    return folder


def config_map(folder: Path, data: dict[str, str]) -> Path:
    """A ConfigMap's folder, as the kubelet writes it: links into a folder that it can swap."""
    inner = folder / f"..{int(time.time())}"
    inner.mkdir(parents=True)
    (folder / "..data").symlink_to(inner.name)
    for name, text in data.items():
        (inner / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def load_patches(path: Path) -> list[Document]:
    return list(yaml.safe_load(path.read_text()))
