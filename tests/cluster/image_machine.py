"""A machine for containers inside this one: one process owns its processes, mounts and network."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from itertools import count
from pathlib import Path

from patience import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    *("podman", "buildah", "crun", "debootstrap"),
    *("ip", "iptables", "nsenter", "unshare", "ssh-keygen", "tar"),
)
PACKAGES = "podman buildah crun debootstrap iproute2 iptables openssh-client"  # of Debian
NETWORK = "10.78"
GATEWAY = f"{NETWORK}.0.1"  # the DNS server listens there

# Podman's cgroup in versions 1 and 2, with the weight of eight processes.
WEIGHTS = {"cpu/libpod_parent/cpu.shares": "8192", "libpod_parent/cpu.weight": "800"}
ISOLATED = ("--pid", "--fork", "--kill-child", "--mount-proc")
UNSHARE = ("unshare", "--mount", "--net", "--uts", "--ipc", *ISOLATED)


def missing() -> str | None:
    """Why containers cannot run here. None if they can."""
    if os.geteuid() != 0:
        return "pods as containers need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: {PACKAGES})"
    trials = ("ip link add name x type veth", "iptables -A INPUT -j DROP")
    words = [*UNSHARE, "sh", "-c", " && ".join(trials)]
    trial = subprocess.run(words, capture_output=True, text=True)
    return None if trial.returncode == 0 else f"no namespaces here: {trial.stderr.strip()}"


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG: no container outlives a killed pytest."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# crun refuses a machine with a mix of cgroups 1 and 2, so hide version 2 where both are.
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
umount /sys/fs/cgroup/unified 2>/dev/null || true
mkdir -p /run/netns
ip link set lo up
ip link add bridge type bridge
ip address add {gateway}/16 dev bridge
ip link set bridge up
{python} {dns} {home}/names.json {gateway} &
touch {home}/up
while :; do sleep 3600 & wait; done
"""


class Machine:
    """The network of the pods with its DNS, and podman inside it."""

    def __init__(self, home: Path, storage: Path, image: str) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._names: dict[str, tuple[str, int | None]] = {}
        self.publish({})
        dns = Path(__file__).with_name("image_dns.py")
        script = BOOT.format(gateway=GATEWAY, home=home, python=sys.executable, dns=dns)
        self._process = subprocess.Popen(
            [*UNSHARE, "bash", "-c", script],
            preexec_fn=die_with_parent,
            stdin=subprocess.DEVNULL,
        )
        wait_for(
            "the machine is up",
            lambda: (home / "up").exists() or self._process.poll() is not None,
            20,
        )
        pid = self._process.pid
        self._pid = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
        self._inside = ["nsenter", "--all", "--target", self._pid]
        self._podman = ["podman", "--root", str(home / "containers")]
        self._podman += ["--runroot", "/run/containers", "--tmpdir", "/run/libpod"]
        self._podman += ["--storage-opt", f"additionalimagestore={storage}"]
        self._podman += ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        self._numbers, self._links = count(10), count()
        self.has_limits = self._try_limits(image)

    def _try_limits(self, image: str) -> bool:
        """Whether cgroups limit a container here, as those of a node do."""
        words = ["run", "--rm", "--network", "none", "--pull", "never", "--cpus", "0.5"]
        words += ["--memory", "300m", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096"]
        program = "from distsent.runtime.cgroup import *; print(cpu_quota(), memory_use())"
        done = self.podman(*words, image, "python", "-c", program, check=False)
        # All containers together would weigh no more than one process outside of them.
        for file, weight in WEIGHTS.items():
            with suppress(OSError):
                Path("/sys/fs/cgroup", file).write_text(weight)
        return done.stdout.startswith("1 limit 0.3 GiB")

    def run(
        self, *words: str, check: bool = True, timeout: float = 120 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*self._inside, *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
        )
        output = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        assert not check or done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{output}"
        return done

    def start(self, *words: str) -> None:
        """Start a process that ends with the machine."""
        subprocess.Popen([*self._inside, *words], stdin=subprocess.DEVNULL)

    def podman(
        self, *words: str, check: bool = True, timeout: float = 120 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        return self.run(*self._podman, *words, check=check, timeout=timeout)

    def has_process(self, pid: str) -> bool:
        """Whether a process of the machine, by its own number, is alive. Costs no new process."""
        return bool(pid) and Path(f"/proc/{self._pid}/root/proc/{pid}").exists()

    def publish(self, names: dict[str, tuple[str, int | None] | None]) -> None:
        """Let DNS know names: address, and the port of the readiness probe. None removes a name."""
        self._names |= {name: at for name, at in names.items() if at is not None}
        for name in [name for name, at in names.items() if at is None]:
            self._names.pop(name, None)
        new = self.home / "names.new"
        new.write_text(json.dumps(self._names))
        new.replace(self.home / "names.json")

    def new_address(self) -> str:
        number = next(self._numbers)
        return f"{NETWORK}.{number // 250}.{number % 250 + 2}"

    def join(self, name: str, address: str) -> None:
        """Create a pod's network namespace on the bridge."""
        link = f"pod{next(self._links)}"  # the kernel deletes earlier ones late
        attach = f"""set -e; ip netns add {name}
            ip link add {link} type veth peer name eth0 netns {name}
            ip link set {link} master bridge up
            ip -n {name} address add {address}/16 dev eth0
            ip -n {name} link set eth0 up; ip -n {name} link set lo up
            ip -n {name} route add default via {GATEWAY}"""
        self.run("sh", "-c", attach)

    def silence(self, name: str) -> None:
        """Drop all packets of a pod, in and out: nothing says that it is gone."""
        drop = " && ".join(f"iptables -I {chain} -j DROP" for chain in ("INPUT", "OUTPUT"))
        self.run("ip", "netns", "exec", name, "sh", "-c", drop)

    def leave(self, name: str) -> None:
        """Delete a pod's network namespace, which frees its address."""
        self.run("ip", "netns", "delete", name, check=False)

    def answers(self, address: str, port: int) -> bool:
        """Whether a connection is accepted, as a tcpSocket probe tests it."""
        words = ("timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
        return self.run(*words, check=False).returncode == 0

    def close(self) -> None:
        """Stop the namespace's first process: the kernel then ends the others, and the mounts."""
        # Removing them also removes their cgroups, which belong to no namespace.
        self.podman("rm", "--all", "--force", "--time", "0", check=False)
        self._process.kill()
        self._process.wait()
        wait_for(
            "all processes have ended", lambda: self.run("true", check=False).returncode != 0, 20
        )
