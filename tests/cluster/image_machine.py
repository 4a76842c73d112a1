"""A machine for containers inside this one: one process owns its processes, mounts and network.

The image is rebuilt when its files change, and cached in ~/.cache/distsent/images (XDG_CACHE_HOME).
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
    *("podman", "buildah", "crun", "debootstrap"),
    *("ip", "nsenter", "unshare", "ssh-keygen", "tar"),
)
PACKAGES = "podman buildah crun debootstrap iproute2 openssh-client"  # of Debian
CONTEXT = (
    *("Dockerfile", ".dockerignore", "constraints.txt", "pyproject.toml", "setup.cfg", "LICENSE"),
    *("tools/cxx17", "distsent", "jobs", "k8s/image"),
)
NETWORK = "10.78.0"
TAG = "localhost/distsent"


def missing() -> str | None:
    """Why containers cannot run here. None if they can."""
    if os.geteuid() != 0:
        return "pods as containers need root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (Debian: {PACKAGES})"
    words = [*UNSHARE, "ip", "link", "add", "name", "x", "type", "veth"]
    trial = subprocess.run(words, capture_output=True, text=True)
    return None if trial.returncode == 0 else f"no namespaces here: {trial.stderr.strip()}"


ISOLATED = ("--pid", "--fork", "--kill-child", "--mount-proc")
UNSHARE = ("unshare", "--mount", "--net", "--uts", "--ipc", *ISOLATED)


def die_with_parent() -> None:
    """PR_SET_PDEATHSIG: no container outlives a killed pytest."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


# ---- the image ---------------------------------------------------------------------------------


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distsent" / "images"


def build() -> tuple[Path, str, float]:
    """The storage that holds the image, its name, and the build time in seconds (0: cached)."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = pip_settings()
        sources = [json.dumps(settings), *(str(path) for path in certificates(settings))]
        base = "localhost/base:" + digest(sources, ROOT, [])
        context = snapshot(folder / "context")
        files = sorted(path for path in context.rglob("*") if path.is_file())
        image = f"{TAG}:" + digest([base], context, files)
        tool = ["--root", str(folder / "storage"), "--runroot", str(folder / "run")]
        if subprocess.run(["podman", *tool, "image", "exists", image]).returncode == 0:
            return folder / "storage", image, 0.0
        if subprocess.run(["podman", *tool, "image", "exists", base]).returncode != 0:
            make_base(folder / "base", base, tool, settings)
        start = time.monotonic()
        mounts = [f"--volume={path}:{path}:ro" for path in local_folders(settings)]
        # With mounts and processes of its own, a killed build leaves nothing behind.
        words = ["unshare", "--mount", *ISOLATED, "nice", "-n", "10", "buildah", *tool, "bud"]
        words += ["--isolation", "chroot", "--network", "host", "--format", "docker"]
        words += ["--layers", *mounts]
        words += ["--build-arg", f"BASE={base}", *torch_index(settings)]
        with open(folder / "build.log", "w") as file:
            # The second build is free. It names the build stage, which holds the compiled Horovod:
            # unnamed stages are deleted below.
            stage = ["--target", "build", "--tag", "localhost/stage:build"]
            for target in (["--tag", image], stage):
                done = subprocess.run(
                    [*words, *target, str(context)],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=die_with_parent,
                )
                if done.returncode != 0:
                    break
        log = (folder / "build.log").read_text(errors="replace")
        end = f"the end of {folder / 'build.log'}:\n{log[-3000:]}"
        assert done.returncode == 0, f"building the image failed; {end}"
        delete_other_images(tool, image)
        return folder / "storage", image, time.monotonic() - start


def delete_other_images(tool: Sequence[str], image: str) -> None:
    """Keep only the newest image and its build stage, which speeds up the next build."""
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
    """A copy of the image's sources: the checkout may change while the image is built."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in CONTEXT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
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
    words = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(words, capture_output=True, text=True)
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
    names = ("find-links", "index-url", "extra-index-url")
    words = " ".join(settings.get(name, "") for name in names).split()
    paths = [Path(word.removeprefix("file://")) for word in words]
    paths = [path.parent if path.name == "simple" else path for path in paths if path.is_absolute()]
    return sorted({path for path in paths if path.is_dir()})


def torch_index(settings: dict[str, str]) -> list[str]:
    """The build argument that drops the index of torch, if a local folder holds its CPU build."""
    is_local = any(list(folder.glob("torch-*+cpu*.whl")) for folder in local_folders(settings))
    return ["--build-arg", "TORCH_INDEX="] if is_local else []


def make_base(folder: Path, name: str, tool: Sequence[str], settings: dict[str, str]) -> None:
    """Build debian:bookworm-slim without a registry, with this machine's settings of pip."""
    shutil.rmtree(folder, ignore_errors=True)
    words = ["unshare", "--mount", "--fork", "debootstrap", "--variant=minbase"]
    words += ["--include=ca-certificates", "bookworm", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, preexec_fn=die_with_parent)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    shutil.rmtree(folder / "var/cache/apt/archives", ignore_errors=True)
    shutil.rmtree(folder / "usr/share/doc", ignore_errors=True)
    lines = dict(settings)
    # A file beside the distribution's certificates: installing a package rewrites those.
    for bundle in certificates(settings):
        shutil.copy(bundle, folder / "etc/ssl/host-bundle.crt")
        lines["cert"] = "/etc/ssl/host-bundle.crt"
    text = "".join(f"{key} = {value}\n" for key, value in lines.items())
    (folder / "etc/pip.conf").write_text(f"[global]\n{text}")
    packed = subprocess.Popen(["tar", "-C", str(folder), "-c", "."], stdout=subprocess.PIPE)
    load = ["podman", *tool, "import", "--quiet", "-", name]
    subprocess.run(load, stdin=packed.stdout, check=True, capture_output=True)
    assert packed.wait() == 0
    shutil.rmtree(folder)


# ---- the machine -------------------------------------------------------------------------------

# crun refuses a machine with a mix of cgroups 1 and 2. It needs neither here, so hide version 2.
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
    """The network of the pods, and podman inside it."""

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
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._inside = ["nsenter", "--all", "--target", children[0]]
        self._podman = ["podman", "--root", str(home / "containers")]
        self._podman += ["--runroot", "/run/containers", "--tmpdir", "/run/libpod"]
        self._podman += ["--storage-opt", f"additionalimagestore={storage}"]
        self._podman += ["--cgroup-manager", "cgroupfs", "--events-backend", "none"]

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

    def podman(
        self, *words: str, check: bool = True, timeout: float = 120 * PATIENCE
    ) -> subprocess.CompletedProcess[str]:
        return self.run(*self._podman, *words, check=check, timeout=timeout)

    def join(self, name: str, address: str) -> None:
        """Create a pod's network namespace on the bridge."""
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

    def leave(self, name: str) -> None:
        """Delete a pod's network namespace, which frees its address."""
        self.run("ip", "netns", "delete", name, check=False)

    def answers(self, address: str, port: int) -> bool:
        """Whether a connection is accepted, as a tcpSocket probe tests it."""
        words = ("timeout", "2", "bash", "-c", f"exec 3<>/dev/tcp/{address}/{port}")
        return self.run(*words, check=False).returncode == 0

    def close(self) -> None:
        """Stop the namespace's first process: the kernel then ends the others, and the mounts."""
        self.podman("kill", "--all", check=False)
        self._process.kill()
        self._process.wait()
        wait_for(
            "all processes have ended", lambda: self.run("true", check=False).returncode != 0, 20
        )
