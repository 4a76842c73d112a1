"""A machine of its own for containers, inside this one: processes, mounts and network under one process, and gone with it.

The image is built once for the files that it is made of and kept under ~/.cache/distsent/images (XDG_CACHE_HOME).
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from patience import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
PROGRAMS = (
    "podman",
    "buildah",
    "crun",
    "debootstrap",
    "ip",
    "nsenter",
    "unshare",
    "ssh-keygen",
    "tar",
)
CONTEXT = ("Dockerfile", ".dockerignore", "constraints.txt", "pyproject.toml", "setup.cfg", "LICENSE", "tools/cxx17",
           "distsent", "jobs", "k8s/image")  # fmt: skip
NETWORK = "10.78.0"
TAG = "localhost/distsent"


def missing() -> str | None:
    """Why no containers can be had here; None if they can."""
    if os.geteuid() != 0:
        return "pods as containers need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: podman buildah crun debootstrap iproute2 openssh-client)"
    trial = subprocess.run(
        [*UNSHARE, "ip", "link", "add", "name", "x", "type", "veth"], capture_output=True, text=True
    )
    return None if trial.returncode == 0 else f"no namespaces here: {trial.stderr.strip()}"


UNSHARE = (
    "unshare",
    "--mount",
    "--net",
    "--uts",
    "--ipc",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
)


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(
        1, signal.SIGKILL
    )  # PR_SET_PDEATHSIG: a killed pytest leaves no containers behind


# ---- the image -------------------------------------------------------------------------------------------------------


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distsent" / "images"


def build() -> tuple[Path, str, float]:
    """The folder that holds the image, its name, and the seconds that building took (0: it was there)."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = pip_settings()
        base = "localhost/base:" + digest(
            [json.dumps(settings), *[str(path) for path in certificates(settings)]], ROOT, []
        )
        context = snapshot(folder / "context")
        image = f"{TAG}:" + digest(
            [base], context, sorted(path for path in context.rglob("*") if path.is_file())
        )
        tool = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        if subprocess.run(["podman", *tool, "image", "exists", image]).returncode == 0:
            return folder / "storage", image, 0.0
        if subprocess.run(["podman", *tool, "image", "exists", base]).returncode != 0:
            make_base(folder / "base", base, tool, settings)
        start = time.monotonic()
        mounts = [f"--volume={path}:{path}:ro" for path in local_folders(settings)]
        # Alone with its mounts and processes, so that nothing of a build that was killed stays.
        words = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words += ["nice", "-n", "10", "buildah", *tool, "bud"]
        words += [
            "--isolation",
            "chroot",
            "--network",
            "host",
            "--format",
            "docker",
            "--layers",
            *mounts,
        ]
        words += ["--build-arg", f"BASE={base}", *torch_index(settings)]
        with open(folder / "build.log", "w") as file:
            # The second gives the build stage a name, at no cost: what has none is thrown away below, Horovod with it.
            for target in (
                ["--tag", image],
                ["--target", "build", "--tag", "localhost/stage:build"],
            ):
                done = subprocess.run(
                    [*words, *target, str(context)],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent,
                )
                if done.returncode != 0:
                    break
        log = (folder / "build.log").read_text(errors="replace")
        assert done.returncode == 0, (
            f"building the image failed; the end of {folder / 'build.log'}:\n{log[-3000:]}"
        )
        forget_others(tool, image)
        return folder / "storage", image, time.monotonic() - start


def forget_others(tool: Sequence[str], image: str) -> None:
    """Only the newest image stays, and the stage that it was built in, for the next one."""
    names = subprocess.run(
        ["podman", *tool, "images", "--format", "{{.Repository}}:{{.Tag}}", TAG],
        capture_output=True,
        text=True,
    )
    for name in names.stdout.split():
        if name != image:
            subprocess.run(["podman", *tool, "rmi", name], capture_output=True)
    subprocess.run(["podman", *tool, "image", "prune", "--force"], capture_output=True)


def snapshot(folder: Path) -> Path:
    """What the image is made of, as it is now: somebody may be writing in the checkout while the image is built."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in CONTEXT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def digest(words: Sequence[str], folder: Path, files: Sequence[Path]) -> str:
    total = hashlib.sha256("\0".join(words).encode())
    for path in files:
        total.update(f"\0{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return total.hexdigest()[:16]


def pip_settings() -> dict[str, str]:
    """How pip finds packages on this machine: the container's pip must find them, too."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True
    )
    settings: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2]
        if name in ("cert", "index-url", "extra-index-url", "find-links"):
            settings.setdefault(name, value.strip("'").replace("\\n", " "))
    return settings


def certificates(settings: dict[str, str]) -> list[Path]:
    return [Path(settings["cert"])] if "cert" in settings else []


def local_folders(settings: dict[str, str]) -> list[Path]:
    """Folders that the settings name."""
    words = " ".join(
        settings.get(name, "") for name in ("find-links", "index-url", "extra-index-url")
    ).split()
    paths = [Path(word.removeprefix("file://")) for word in words]
    paths = [path.parent if path.name == "simple" else path for path in paths if path.is_absolute()]
    return sorted({path for path in paths if path.is_dir()})


def torch_index(settings: dict[str, str]) -> list[str]:
    """No index for torch where a folder holds its CPU build already."""
    there = any(list(folder.glob("torch-*+cpu*.whl")) for folder in local_folders(settings))
    return ["--build-arg", "TORCH_INDEX="] if there else []


def make_base(folder: Path, name: str, tool: Sequence[str], settings: dict[str, str]) -> None:
    """A debian:bookworm-slim where no registry is in reach, with this machine's settings of pip."""
    shutil.rmtree(folder, ignore_errors=True)
    done = subprocess.run(
        ["unshare", "--mount", "--fork", "debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(folder)],
        capture_output=True, text=True, preexec_fn=die_with_parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    shutil.rmtree(folder / "var/cache/apt/archives", ignore_errors=True)
    shutil.rmtree(folder / "usr/share/doc", ignore_errors=True)
    lines = dict(settings)
    for bundle in certificates(
        settings
    ):  # beside those of the distribution, which an installation writes anew
        shutil.copy(bundle, folder / "etc/ssl/host-bundle.crt")
        lines["cert"] = "/etc/ssl/host-bundle.crt"
    (folder / "etc/pip.conf").write_text(
        "[global]\n" + "".join(f"{key} = {value}\n" for key, value in lines.items())
    )
    packed = subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(
        ["podman", *tool, "import", "--quiet", "-", name],
        stdin=packed.stdout,
        check=True,
        capture_output=True,
    )
    assert packed.wait() == 0
    shutil.rmtree(folder)


# ---- the machine -----------------------------------------------------------------------------------------------------

# crun refuses a machine whose cgroups are half of version 1 and half of version 2; it is not to use any, so hide the half.
BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs none /run
umount /sys/fs/cgroup/unified 2>/dev/null || true
mkdir -p /run/netns
ip link set lo up
ip link add bridge type bridge
ip address add {network}.1/24 dev bridge
ip link set bridge up
touch {home}/up
while :; do sleep 3600 & wait; done
"""


class Machine:
    """The network that joins pods, and podman inside."""

    def __init__(self, home: Path, storage: Path) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [*UNSHARE, "bash", "-c", BOOT.format(network=NETWORK, home=home)],
            preexec_fn=die_with_parent,
            stdin=subprocess.DEVNULL,
        )
        wait_for(
            "the machine is up",
            lambda: (home / "up").exists() or self._process.poll() is not None,
            20,
        )
        children = (
            Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        )
        self._inside = ["nsenter", "--all", "--target", children[0]]
        self._podman = [
            "podman", "--root", str(home / "containers"), "--runroot", "/run/containers", "--tmpdir", "/run/libpod",
            "--storage-opt", f"additionalimagestore={storage}", "--cgroup-manager", "cgroupfs", "--events-backend", "none",
        ]  # fmt: skip

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
        assert not check or done.returncode == 0, (
            f"{' '.join(words)}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done

    def podman(
        self, *words: str, check: bool = True, timeout: float = 120 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        return self.run(*self._podman, *words, check=check, timeout=timeout)

    def join(self, name: str, address: str) -> None:
        """A network namespace, as of a pod, on the bridge."""
        if name in self.run("ip", "netns", "list").stdout.split():
            return
        link = "p" + hashlib.sha256(name.encode()).hexdigest()[:10]
        self.run("ip", "netns", "add", name)
        self.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
        self.run("ip", "link", "set", link, "master", "bridge", "up")
        self.run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        for device in ("eth0", "lo"):
            self.run("ip", "-n", name, "link", "set", device, "up")
        self.run("ip", "-n", name, "route", "add", "default", "via", f"{NETWORK}.1")

    def part(self, name: str) -> None:
        """Take a pod's place in the network away; another one may have its address then."""
        self.run("ip", "netns", "delete", name, check=False)

    def answers(self, address: str, port: int) -> bool:
        """Whether a connection is accepted, as a tcpSocket probe asks."""
        return (
            self.run(
                "timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}", check=False
            ).returncode
            == 0
        )

    def close(self) -> None:
        """End everything: with the first process of the namespace the kernel ends the others, with the last the mounts."""
        self.podman("kill", "--all", check=False)
        self._process.kill()
        self._process.wait()
        wait_for("no process is left", lambda: self.run("true", check=False).returncode != 0, 20)
