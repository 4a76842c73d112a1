"""One pod, run with podman as the kubelet would run it.

Names, network, volumes, user, environment, limits and rights come from the manifest alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import yaml
from image_machine import Machine
from image_volumes import FASTER, name_files, share
from patience import wait_for

Document = dict[str, Any]
UNITS = {"Ki": "k", "Mi": "m", "Gi": "g"}
API = "10.96.0.1"
API_SERVER = {  # in every container, whatever enableServiceLinks says
    "KUBERNETES_SERVICE_HOST": API,
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_SERVICE_PORT_HTTPS": "443",
    "KUBERNETES_PORT": f"tcp://{API}:443",
    "KUBERNETES_PORT_443_TCP": f"tcp://{API}:443",
    "KUBERNETES_PORT_443_TCP_ADDR": API,
    "KUBERNETES_PORT_443_TCP_PORT": "443",
    "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
}
RAN_WELL = 600 / FASTER  # seconds after which the pauses between restarts begin anew


def load(path: Path) -> dict[tuple[str, str], Document]:
    """The documents of a manifest by kind and name."""
    documents = [one for one in yaml.safe_load_all(path.read_text()) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


class Pod:
    """A pod of a fixed name: deleted and created again it is a new one, at another address.

    `phase`: Pending, Running, Succeeded or Failed. `reason`: Evicted. A pod is on a node of its
    own, so `silence` is that node.
    """

    def __init__(
        self, machine: Machine, name: str, domain: str, template: Document, image: str, folder: Path
    ) -> None:
        self.machine, self.name, self.domain = machine, name, domain
        self.image, self.folder = image, folder
        self.spec = template["spec"]
        self.container = self.spec["containers"][0]
        # The operator's mounts: folder, path inside, read-only.
        self.mounts: list[tuple[Path, str, bool]] = []
        self.env: dict[str, str] = {}
        self.sources: dict[str, Path] = {}  # folders of claims and ConfigMaps by name
        self.has_room = True  # else it stays Pending
        self.starts = self.pods = 0
        self.exists = self.is_silent = False
        self.reason = self.address = self._pid = ""
        self.restarts = self._quick = self.last_code = 0
        self.deleted = self._due = self._started = 0.0
        self._code: int | None = None

    # ---- what users and controllers do ---------------------------------------------------------

    def create(self) -> None:
        """A new pod: network, empty volumes, and its first container."""
        self.pods += 1
        self.exists, self.is_silent, self.deleted = True, False, 0.0
        self.reason, self.restarts, self._quick, self._due = "", 0, 0, 0.0
        self.address = self.machine.new_address()
        shutil.rmtree(self._own, ignore_errors=True)
        self.machine.join(self._network, self.address)
        self._names = name_files(self._own / "etc", self.name, self.address, self.domain)
        self.machine.publish({f"{self.name}.{self.domain}": (self.address, self._probed_port())})
        self.start()

    def start(self) -> None:
        """A container of this pod."""
        self.machine.podman("rm", "--force", "--ignore", self.name)
        self.starts, self._code = self.starts + 1, None
        self._started = time.monotonic()
        self.termination_log.write_text("")
        self.termination_log.chmod(0o666)
        pid = self._own / "pid"
        pid.unlink(missing_ok=True)
        self.machine.podman(
            *("run", "--detach", "--name", self.name, "--hostname", self.name),
            *("--network", f"ns:/run/netns/{self._network}", "--pull", "never", "--passwd=false"),
            *("--no-healthcheck", "--no-hosts", "--pidfile", str(pid)),
            *("--log-driver", "k8s-file", "--log-opt", f"path={self._log(self.starts)}"),
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"),
            *self._limits(),
            *self._identity(),
            *self._environment(),
            *self._volumes(),
            self.image,
            *self.container.get("command", []),
            *self.container.get("args", []),
        )
        self._pid = pid.read_text().strip()

    def delete(self) -> None:
        """`kubectl delete pod`, a preemption or a drain: SIGTERM now, SIGKILL after the grace."""
        self.deleted = self.deleted or time.monotonic()
        self.machine.publish({f"{self.name}.{self.domain}": None})
        if not self.is_silent and self.running():
            self.machine.podman("kill", "--signal", "TERM", self.name, check=False)

    def evict(self) -> None:
        """The kubelet evicts it: SIGKILL, and the failed pod stays."""
        self.kill()
        self.reason = "Evicted"
        self.machine.publish({f"{self.name}.{self.domain}": None})

    def kill(self) -> None:
        """SIGKILL to the first process, and with it to the container."""
        self.machine.podman("kill", "--signal", "KILL", self.name)

    def silence(self) -> None:
        """Its node falls silent, and the cluster takes the pod for not ready."""
        self.machine.silence(self._network)
        self.is_silent = True
        self.machine.publish({f"{self.name}.{self.domain}": None})

    def reconcile(self) -> None:
        """The kubelet's part: restarts in place (OnFailure), and the end of deleted pods."""
        if not self.exists or self.is_silent:  # Terminating, until the Node object is deleted
            return
        now = time.monotonic()
        if self.running():
            if self.deleted and now > self.deleted + self.grace:
                self.kill()
            return
        if self.deleted:
            self.last_code = self.exit_code()
            self.remove()
        elif not self.reason and self.exit_code() != 0:
            if not self._due:
                self._quick = 0 if now > self._started + RAN_WELL else self._quick
                self._due = now + pause(self._quick, 300)
            elif now > self._due:
                self.restarts, self._quick, self._due = self.restarts + 1, self._quick + 1, 0.0
                self.start()

    def remove(self) -> None:
        """The pod is gone, with its logs and its volumes."""
        self.machine.publish({f"{self.name}.{self.domain}": None})
        self.machine.podman("rm", "--force", "--ignore", "--time", "0", self.name, check=False)
        self.machine.leave(self._network)
        self.exists = False

    # ---- what kubectl shows ----------------------------------------------------------------------

    def running(self) -> bool:
        return self.exists and self.machine.has_process(self._pid)

    @property
    def phase(self) -> str:
        if not self.exists:
            return "Pending"
        if self.is_silent or self.running() or self._due:
            return "Running"
        return "Failed" if self.reason or self.exit_code() else "Succeeded"

    def ready(self) -> bool:
        """The manifest's own readiness probe."""
        port = self._probed_port()
        return self.running() and (port is None or self.machine.answers(self.address, port))

    def exit_code(self, seconds: float = 300) -> int:
        """Wait until the container has ended."""
        wait_for(f"{self.name} ends", lambda: not self.running(), seconds, self.history)
        if self._code is None:
            # `wait`, as conmon may still note the end
            self._code = int(self.machine.podman("wait", self.name).stdout)
        return self._code

    def log(self) -> str:
        """`kubectl logs` and `kubectl logs --previous`: of two containers of this pod."""
        first = self.starts - min(self.restarts, 1)
        numbers = range(first, self.starts + 1) if self.exists else ()
        return "\n".join(lines for number in numbers for lines in self._lines(number))

    def message(self) -> str:
        """The termination message of the last container, which `kubectl describe pod` shows."""
        policy = self.container.get("terminationMessagePolicy")
        said = self.termination_log.read_text()
        is_log = not said and policy == "FallbackToLogsOnError" and self.exit_code() != 0
        return "\n".join(self._lines(self.starts)[-80:])[-2048:] if is_log else said[:4096]

    def history(self) -> str:
        """The logs of all containers of this name, which no cluster keeps."""
        return "\n".join(line for n in range(1, self.starts + 1) for line in self._lines(n))

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.machine.podman("exec", self.name, *words, check=check)

    # ---- its container -------------------------------------------------------------------------

    @property
    def grace(self) -> int:
        return int(self.spec.get("terminationGracePeriodSeconds", 30))

    @property
    def termination_log(self) -> Path:
        return self._own / "termination-log"

    @property
    def _own(self) -> Path:
        return self.folder / "pods" / self.name

    @property
    def _network(self) -> str:
        return f"{self.name}-{self.pods}"

    def _log(self, number: int) -> Path:
        return self.folder / f"{self.name}.{number}.log"

    def _lines(self, number: int) -> list[str]:
        """What a container wrote. In its log, F (full) or P (partial) precedes the text."""
        text = self._log(number).read_text(errors="replace")
        parts = re.findall(r"^\S+ \S+ ([FP]) ?(.*)$", text, re.MULTILINE)
        whole = "".join(said + ("\n" if end == "F" else "") for end, said in parts)
        return whole.splitlines()

    def _probed_port(self) -> int | None:
        probe = self.container.get("readinessProbe")
        if probe is None:
            return None
        port = (probe.get("tcpSocket") or probe["httpGet"])["port"]
        numbers = {one["name"]: one["containerPort"] for one in self.container["ports"]}
        return int(numbers.get(port, port))

    def _limits(self) -> list[str]:
        if not self.machine.has_limits:
            return ["--cgroups", "disabled"]
        limits = self.container.get("resources", {}).get("limits", {})
        words = ["--cpus", limits["cpu"]] if "cpu" in limits else []
        if "memory" in limits:
            size = limits["memory"][:-2] + UNITS[limits["memory"][-2:]]
            words += ["--memory", size, "--memory-swap", size]
        return words

    def _identity(self) -> list[str]:
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

    def _environment(self) -> list[str]:
        stated = {one["name"]: one["value"] for one in self.container.get("env", [])}
        return [f"--env={name}={value}" for name, value in (API_SERVER | stated | self.env).items()]

    def _volumes(self) -> list[str]:
        words, group = [], self.spec.get("securityContext", {}).get("fsGroup")
        mounts = self.mounts + [(path, inside, False) for path, inside in self._names]
        mounts.append((self.termination_log, "/dev/termination-log", False))
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
                folder = self._own / "volumes" / mount["name"]
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


def pause(failures: int, most: float) -> float:
    """Seconds until the next try after so many failures: none, then 10, 20, 40 s ..."""
    return min(10 * 2 ** (failures - 1), most) / FASTER if failures else 0.0
