"""A SLURM cluster of three hosts on one machine: `login` (slurmctld), `node1`, `node2` (slurmd).

Each has its own name, network, processes and /tmp; a bridge connects them. They share everything
else, including the run folders, as on any cluster. All of it lives below the first process of a
process namespace: when that one ends, and it ends with this process, the kernel removes all its
processes, networks and mounts. Nothing outside is touched, so two clusters can run side by side.
"""

from __future__ import annotations

import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from hold import Hold
from patience import wait_for

ROOT = Path(__file__).parents[2]
HOSTS = {"login": "10.77.0.1", "node1": "10.77.0.11", "node2": "10.77.0.12"}
NODES = ("node1", "node2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "sshd", "nsenter", "unshare")
UNSHARE = [
    "unshare",
    "--mount",
    "--net",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
]
PMIX = "/usr/lib/*-linux-gnu/slurm-wlm/mpi_pmix.so"

# cred_expire: a requeued job waits that long (120 s by default) before it may start again.
# PreemptMode=REQUEUE with GraceTime: the job gets SIGTERM and so many seconds, then it is requeued.
# KillWait and GraceTime: long, because a slow machine may save that slowly; no test waits for them.
CONF = """
ClusterName=distsent
SlurmctldHost=login({login})
AuthType=auth/munge
AuthInfo=socket={home}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={home}/state
SlurmdSpoolDir=/tmp/slurmd
SlurmctldPidFile={home}/slurmctld.pid
SlurmdPidFile=/tmp/slurmd.pid
SlurmctldLogFile={home}/slurmctld.log
SlurmdLogFile={home}/slurmd-%h.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
MpiDefault=none
ReturnToService=2
SlurmdTimeout={patience}
SlurmctldTimeout=30
KillWait=30
MessageTimeout=5
MinJobAge=3600
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2,preempt_youngest_first
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node1 NodeAddr={node1} CPUs=2 Gres=gpu:2
NodeName=node2 NodeAddr={node2} CPUs=2 Gres=gpu:2
PartitionName=normal Nodes=node1,node2 Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=node1,node2 PriorityTier=10 PreemptMode=OFF State=UP
"""

SSH_CONFIG = """
Host *
    IdentityFile {home}/ssh_key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""


def missing() -> str | None:
    """Why a cluster cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "a SLURM cluster on one machine needs root"
    absent = [name for name in PROGRAMS if _which(name) is None]
    if absent:
        return (
            f"not installed: {', '.join(absent)} (Debian: slurm-wlm munge iproute2 openssh-server)"
        )
    if not list(Path("/").glob(PMIX.lstrip("/"))):
        return "this SLURM has no PMIx plugin"
    trial = subprocess.run(
        [*UNSHARE, "ip", "link", "add", "name", "x", "type", "veth"], capture_output=True, text=True
    )
    return None if trial.returncode == 0 else f"no namespaces here: {trial.stderr.strip()}"


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG: a killed pytest leaves no cluster.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


class Host:
    """A host with its own name, network, processes and /tmp, nested in the host `inside`."""

    def __init__(self, name: str, home: Path, inside: Host | None = None) -> None:
        self.name, self.home = name, home
        self.private = private = home / name
        tmp = private / "tmp"
        tmp.mkdir(parents=True)
        (tmp / "shm").mkdir(mode=0o1777)
        tmp.chmod(0o1777)
        script = [
            "set -e",
            f"hostname {name}",
            f"mount --bind {home}/hosts /etc/hosts",
            "ip link set lo up",
        ]
        script += [
            f"mount --bind {home}/ssh_config /etc/ssh/ssh_config",
            "mount -t tmpfs none /dev/shm",
            "mkdir -p /run/sshd",
        ]
        script[4:4] = ["mount -t tmpfs none /run"]
        shared = home, ROOT, sys.prefix, sys.base_prefix, os.environ.get("DISTSENT_DATA", ROOT)
        for kept in _outermost(*map(Path, shared)):  # must stay visible below the private /tmp
            if kept.is_relative_to("/tmp"):
                (tmp / kept.relative_to("/tmp")).mkdir(parents=True, exist_ok=True)
                script.append(f"mount --bind {kept} {tmp / kept.relative_to('/tmp')}")
        # The first process of a process namespace must reap orphans; bash does.
        script += [
            f"mount --rbind {tmp} /tmp",
            f"touch {private}/up",
            "trap : TERM INT",
            "while :; do sleep 3600 & wait; done",
        ]
        command = [*UNSHARE, "bash", "-c", "\n".join(script)]
        with open(home / f"{name}.log", "w") as log:
            if inside is not None:
                command = [*inside.enter, *command]
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                preexec_fn=_die_with_parent,
            )
        wait_for(f"host {name} is up", (private / "up").exists, 10, every=0.02)
        self.pid = _descendant(self.process.pid)

    @property
    def enter(self) -> list[str]:
        return ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--ipc", "--pid"]

    def run(
        self,
        *command: str,
        check: bool = True,
        env: dict[str, str] | None = None,
        cwd: Path = Path("/"),
    ) -> str:
        """Standard output of a command on this host."""
        # nsenter does not keep the current folder.
        inside = [*self.enter, "env", f"--chdir={cwd}", *command]
        done = subprocess.run(inside, env=env, capture_output=True, text=True, timeout=180)
        assert not check or done.returncode == 0, (
            f"{self.name}: {command} ended with {done.returncode}: {done.stderr}{done.stdout}"
        )
        return done.stdout

    def processes(self) -> dict[int, str]:
        """Process number (of this machine) and command line of each process on this host."""
        here = os.readlink(f"/proc/{self.pid}/ns/pid")
        return {pid: line for pid, line in _processes() if _link(f"/proc/{pid}/ns/pid") == here}

    def kill(self, pattern: str) -> None:
        """Send SIGKILL to this host's processes whose command line matches."""
        for pid, line in self.processes().items():
            if re.search(pattern, line):
                os.kill(pid, signal.SIGKILL)


class Cluster:
    """The cluster; `home` is its shared storage. Without `slurm`, its hosts alone.

    Use as a context.
    """

    def __init__(self, home: Path, patience: int = 60, slurm: bool = True) -> None:
        self.home, self.slurm = home, slurm
        self.patience = patience  # seconds until a node that does not answer is down
        self.hold = Hold(home / "hold")
        self.hosts: dict[str, Host] = {}
        self.env = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(home), "USER": "root", "LANG": "C.UTF-8",
            "SLURM_CONF": f"{home}/slurm.conf", **self.hold.env,
        }  # fmt: skip

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self) -> None:
        home = self.home
        (home / "state").mkdir(parents=True)
        (home / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in HOSTS.items())
        )
        (home / "slurm.conf").write_text(CONF.format(home=home, patience=self.patience, **HOSTS))
        # Any device will do: it is not used.
        (home / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        (home / "munge.key").write_bytes(secrets.token_bytes(128))
        (home / "munge.key").chmod(0o600)
        home.chmod(0o755)  # munge requires that all users can reach its socket
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / "ssh_key"], check=True
        )
        (home / "ssh_config").write_text(SSH_CONFIG.format(home=home))
        login = self.hosts["login"] = Host("login", home)
        for name in NODES:
            self.hosts[name] = Host(name, home, inside=login)
        login.run("ip", "link", "add", "name", "bridge", "type", "bridge")
        login.run("ip", "addr", "add", f"{HOSTS['login']}/24", "dev", "bridge")
        login.run("ip", "link", "set", "bridge", "up")
        for name in NODES:
            host = self.hosts[name]
            # The process number of this machine, so the command runs here.
            pair = f"ip link add name {name} type veth peer name eth0 netns {host.pid}"
            subprocess.run(["nsenter", f"--target={login.pid}", "--net", *pair.split()], check=True)
            login.run("ip", "link", "set", name, "master", "bridge", "up")
            host.run("ip", "addr", "add", f"{HOSTS[name]}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
        if self.slurm:
            self._start_slurm()

    def _start_slurm(self) -> None:
        home = self.home
        files = " ".join(
            f"--{name}-file={home}/munge.{name}" for name in ("key", "pid", "log", "seed")
        )
        self.daemon("login", f"munged --force --socket={home}/munge.socket {files}")
        wait_for("munged answers", (home / "munge.socket").exists, 10)
        self.daemon("login", "slurmctld")
        for name in NODES:
            self.start_node(name)

    def daemon(self, host: str, command: str) -> None:
        self.hosts[host].run("sh", "-c", command, env=self.env)

    def start_node(self, name: str) -> None:
        """Connect a node, start slurmd and sshd if needed, and wait until SLURM would use it."""
        host, home = self.hosts[name], self.home
        self.connect(name, True)
        running = {
            line.split(" ")[0].rsplit("/", 1)[-1].rstrip(":") for line in host.processes().values()
        }
        if "slurmd" not in running:
            self.daemon(name, "slurmd")
        if "sshd" not in running:
            options = [f"HostKey={home}/ssh_key", f"AuthorizedKeysFile={home}/ssh_key.pub"]
            options += ["StrictModes=no", "PidFile=none", "PermitRootLogin=yes", "UsePAM=no"]
            flags = " ".join(f"-o {option}" for option in options)
            self.daemon(name, f"$(command -v sshd) -f /dev/null {flags}")
        wait_for(f"{name} is idle", lambda: self.node_state(name) == "idle", 240)

    def connect(self, name: str, up: bool) -> None:
        """Plug a node's network cable in, or out."""
        self.hosts["login"].run("ip", "link", "set", name, "up" if up else "down")

    def node_state(self, name: str) -> str:
        return self.run(
            "sinfo", "--noheader", f"--nodes={name}", "--partition=normal", "--format=%t"
        ).strip()

    def run(self, *command: str, check: bool = True, cwd: Path = ROOT, **env: str) -> str:
        """Run a command on the login node; again if the controller was too busy to answer."""
        for patience in range(30, -1, -1):
            try:
                return self.hosts["login"].run(*command, check=check, env=self.env | env, cwd=cwd)
            except AssertionError as error:
                if "Unable to contact slurm controller" not in str(error) or not patience:
                    raise
                time.sleep(2)
        raise AssertionError

    def stop(self) -> None:
        """End everything: with the first host's first process all others end."""
        for host in reversed(self.hosts.values()):
            if host.process.poll() is None:
                os.kill(host.pid, signal.SIGKILL)
            host.process.wait(timeout=20)
        self.hosts.clear()


def _descendant(pid: int) -> int:
    """The last of a chain of only children: nsenter and unshare each fork one.

    Call it before bash has children of its own.
    """
    end = time.monotonic() + 5
    while time.monotonic() < end:
        chain = pid
        while Path(f"/proc/{chain}/comm").read_text().strip() in ("unshare", "nsenter"):
            children = Path(f"/proc/{chain}/task/{chain}/children").read_text().split()
            if not children:
                break
            chain = int(children[0])
        else:
            return chain
    raise AssertionError("unshare has no child")


def _outermost(*paths: Path) -> list[Path]:
    """The paths, without those below another one."""
    unique = sorted({path.resolve() for path in paths})
    return [
        path
        for path in unique
        if not any(path != other and path.is_relative_to(other) for other in unique)
    ]


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _processes() -> Iterable[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue


def leftovers(home: Path, cluster_namespaces: set[str]) -> list[str]:
    """What is left of a cluster: processes and mounts that name its storage or are inside it."""
    left = [
        f"process {pid}: {line}"
        for pid, line in _processes()
        if str(home) in line or namespaces(pid) & cluster_namespaces
    ]
    return left + [
        f"mount: {line}"
        for line in Path("/proc/mounts").read_text().splitlines()
        if str(home) in line
    ]


def namespaces(pid: int | str) -> set[str]:
    """The namespaces of a process."""
    return {_link(f"/proc/{pid}/ns/{kind}") for kind in ("net", "mnt", "pid", "uts", "ipc")} - {""}
