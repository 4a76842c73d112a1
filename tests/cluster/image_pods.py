"""What Kubernetes and the MPI operator make of a manifest, done with podman: pods with their names, network, key, hostfile,
volumes, user, environment and rights. Only what the manifest says is used; the operator's part is as its v2beta1 does it.
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
UNITS = {"Ki": "k", "Mi": "m", "Gi": "g"}


def load(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The documents of a manifest by kind and name."""
    return {
        (one["kind"], one["metadata"]["name"]): one
        for one in yaml.safe_load_all(path.read_text())
        if one
    }


class Pod:
    """One pod: a place in the network, and a container that may be started more than once in it."""

    def __init__(
        self,
        machine: Machine,
        name: str,
        address: str,
        template: dict[str, Any],
        image: str,
        folder: Path,
    ) -> None:
        self.machine, self.name, self.address, self.image, self.folder = (
            machine,
            name,
            address,
            image,
            folder,
        )
        self.spec = template["spec"]
        self.container = self.spec["containers"][0]
        self.mounts: list[
            tuple[Path, str, bool]
        ] = []  # what the operator adds: folder, path inside, read-only
        self.env: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        self.sources: dict[
            str, Path
        ] = {}  # claims and ConfigMaps by the names that volumes give them
        self.starts = 0

    @property
    def grace(self) -> int:
        return int(self.spec.get("terminationGracePeriodSeconds", 30))

    def start(self) -> None:
        self.machine.join(self.name, self.address)
        self.machine.podman("rm", "--force", "--ignore", self.name)
        self.starts += 1
        log = self.folder / f"{self.name}.{self.starts}.log"
        self.machine.podman(
            "run", "--detach", "--name", self.name, "--hostname", self.name, "--network", f"ns:/run/netns/{self.name}",
            "--pull", "never", "--passwd=false", "--cgroups", "disabled", "--no-healthcheck",
            "--log-driver", "k8s-file", "--log-opt", f"path={log}",
            "--stop-timeout", str(self.grace), "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096",
            *self.identity(), *self.environment(), *self.volumes(),
            *(f"--add-host={name}:{address}" for name, address in {**self.hosts, self.name: self.address}.items()),
            self.image, *self.container.get("command", []), *self.container.get("args", []),
        )  # fmt: skip

    def identity(self) -> list[str]:
        """User and rights, pod's and container's."""
        pod, own = self.spec.get("securityContext", {}), self.container.get("securityContext", {})
        user, group = (
            own.get("runAsUser", pod.get("runAsUser", 0)),
            own.get("runAsGroup", pod.get("runAsGroup", 0)),
        )
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
        group = self.spec.get("securityContext", {}).get("fsGroup")
        words = [
            f"--volume={folder}:{path}:{'ro' if read_only else 'rw'}"
            for folder, path, read_only in self.mounts
        ]
        volumes = {one["name"]: one for one in self.spec.get("volumes", [])}
        for mount in self.container.get("volumeMounts", []):
            volume, path = volumes[mount["name"]], mount["mountPath"]
            empty = volume.get("emptyDir")
            if empty is not None and empty.get("medium") == "Memory":
                size = empty["sizeLimit"]
                words += [
                    "--mount",
                    f"type=tmpfs,destination={path},tmpfs-mode=1777,tmpfs-size={size[:-2]}{UNITS[size[-2:]]}",
                ]
                continue
            if empty is not None:
                folder = self.folder / "volumes" / self.name / mount["name"]
                folder.mkdir(parents=True, exist_ok=True)
                own(folder, group)
                folder.chmod(0o2777)
            else:
                source = volume.get("persistentVolumeClaim") or volume.get("configMap")
                folder = self.sources[source.get("claimName") or source["name"]]
            read_only = (
                mount.get("readOnly")
                or volume.get("persistentVolumeClaim", {}).get("readOnly")
                or "configMap" in volume
            )
            words.append(f"--volume={folder}:{path}:{'ro' if read_only else 'rw'}")
        return words

    def running(self) -> bool:
        return (
            self.machine.podman(
                "inspect", "--format", "{{.State.Running}}", self.name, check=False
            ).stdout.strip()
            == "true"
        )

    def exit_code(self, seconds: float = 300) -> int:
        """Wait for its end."""
        wait_for(f"{self.name} ends", lambda: not self.running(), seconds, self.log)
        return int(
            self.machine.podman("inspect", "--format", "{{.State.ExitCode}}", self.name).stdout
        )

    def terminate(self) -> None:
        """What the kubelet does to a pod that is evicted or deleted, without waiting: SIGTERM to the first process."""
        self.machine.podman("kill", "--signal", "TERM", self.name)

    def kill(self) -> None:
        self.machine.podman("kill", "--signal", "KILL", self.name)

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.podman("exec", self.name, *words, check=check)

    def log(self) -> str:
        return "\n".join(
            line.split(" ", 3)[-1]
            for path in sorted(self.folder.glob(f"{self.name}.*.log"))
            for line in path.read_text(errors="replace").splitlines()
        )


class Cluster:
    """A namespace with one MPIJob, as the operator runs it."""

    def __init__(
        self,
        machine: Machine,
        image: str,
        folder: Path,
        job: dict[str, Any],
        config: dict[str, Any],
    ) -> None:
        self.machine, self.folder, self.job = machine, folder, job
        folder.mkdir(parents=True, exist_ok=True)
        spec, self.name = job["spec"], job["metadata"]["name"]
        roles = spec["mpiReplicaSpecs"]
        group = roles["Worker"]["template"]["spec"]["securityContext"]["fsGroup"]
        self.claim = folder / "claim"
        self.claim.mkdir()
        own(self.claim, group)
        self.claim.chmod(0o2775)
        self.etc, key = folder / "etc-mpi", make_key(folder / "key", group)
        sources = {
            "shared": self.claim,
            config["metadata"]["name"]: config_map(folder / "config", config["data"]),
        }
        count = roles["Worker"]["replicas"]
        self.workers = [
            Pod(
                machine,
                f"{self.name}-worker-{index}",
                f"{NETWORK}.{10 + index}",
                roles["Worker"]["template"],
                image,
                folder,
            )
            for index in range(count)
        ]
        self.launcher = Pod(
            machine,
            f"{self.name}-launcher",
            f"{NETWORK}.9",
            roles["Launcher"]["template"],
            image,
            folder,
        )
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
        """The ConfigMap that the operator keeps: hosts with slots, and a script that prints those that run."""
        script = "#!/bin/sh\n" + "".join(f"echo {name}\n" for name in names)
        self.etc.mkdir(exist_ok=True)
        for name, text, mode in (
            ("hostfile", "".join(f"{host} slots={slots}\n" for host in names), 0o444), ("discover_hosts.sh", script, 0o555),
        ):  # fmt: skip
            new = self.etc / f".{name}"
            new.write_text(text)
            new.chmod(mode)
            new.replace(self.etc / name)

    def show(self, *workers: Pod) -> None:
        """Let discover_hosts.sh name these workers."""
        self.write_hosts([f"{pod.name}.{self._where}" for pod in workers], self._slots)

    def ready(self, pod: Pod) -> bool:
        """The manifest's own readiness probe."""
        port = pod.container["readinessProbe"]["tcpSocket"]["port"]
        numbers = {one["name"]: one["containerPort"] for one in pod.container["ports"]}
        return self.machine.answers(pod.address, numbers.get(port, port))

    def start(self) -> None:
        """Workers, then, when they are ready, the launcher: launcherCreationPolicy: WaitForWorkersReady."""
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
        wait_for(
            f"step {step}",
            lambda: self.steps() >= step or not self.launcher.running(),
            seconds,
            self.launcher.log,
        )
        assert self.steps() >= step, self.launcher.log()

    def start_and_hold(self, step: int) -> None:
        """Start, and have the run wait after so many steps."""
        self.hold.at(step)
        self.start()
        self.wait_for_step(step)

    def let_go_to_stop(self) -> None:
        """Wait until a worker knows that it is to stop, and let all of them go on."""
        wait_for("a worker is asked to stop", self.hold.heard, 120, self.launcher.log)
        self.hold.free()

    def checkpoint(self, step: int) -> bool:
        return (self.claim / "runs" / self.name / "checkpoints" / f"step-{step:08d}").is_dir()

    def close(self) -> None:
        for pod in (self.launcher, *self.workers):
            self.machine.podman("rm", "--force", "--ignore", "--time", "0", pod.name, check=False)
            self.machine.part(pod.name)


def own(path: Path, group: int | None) -> None:
    """What fsGroup does to a volume."""
    if group is not None:
        os.chown(path, -1, group)


def make_key(folder: Path, group: int | None) -> Path:
    """The secret `<job>-ssh`, as the operator makes it and the kubelet mounts it: of root, readable by the group."""
    folder.mkdir()
    subprocess.run(
        [
            "ssh-keygen",
            "-q",
            "-t",
            "ecdsa",
            "-b",
            "521",
            "-m",
            "PEM",
            "-N",
            "",
            "-f",
            str(folder / "id_rsa"),
        ],
        check=True,
    )
    shutil.copy(folder / "id_rsa.pub", folder / "authorized_keys")
    for path in folder.iterdir():
        own(path, group)
        path.chmod(0o644)
    return folder


def config_map(folder: Path, data: dict[str, str]) -> Path:
    """As the kubelet lays it out: links into a folder that can be swapped."""
    inner = folder / f"..{int(time.time())}"
    inner.mkdir(parents=True)
    (folder / "..data").symlink_to(inner.name)
    for name, text in data.items():
        (inner / name).write_text(text)
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def load_patches(path: Path) -> list[dict[str, Any]]:
    """The patches of an overlay."""
    return list(yaml.safe_load(path.read_text()))
