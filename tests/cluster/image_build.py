"""The image of the pods, built in containers of this machine, without a registry.

It is rebuilt when its files change, and cached in ~/.cache/distsent/images (XDG_CACHE_HOME).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from image_machine import ISOLATED, ROOT, die_with_parent

CONTEXT = (
    *("Dockerfile", ".dockerignore", "constraints.txt", "pyproject.toml", "setup.cfg", "LICENSE"),
    *("tools/cxx17", "distsent", "jobs", "k8s/image"),
)
TAG = "localhost/distsent"
IN_USE: list[int] = []  # a file with a lock, as long as this process may need its image


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "distsent" / "images"


def build() -> tuple[Path, str, float]:
    """The storage that holds the image, its name, and the build time in seconds (0: cached)."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        IN_USE.append(os.open(folder / "in-use", os.O_CREAT | os.O_RDWR))
        fcntl.flock(IN_USE[-1], fcntl.LOCK_SH)
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
    """Keep only the newest image and its build stage, which speeds up the next build.

    Not while other processes run pods of theirs.
    """
    try:
        fcntl.flock(IN_USE[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        fcntl.flock(IN_USE[-1], fcntl.LOCK_SH)
        return
    names = subprocess.run(
        ["podman", *tool, "images", "--format", "{{.Repository}}:{{.Tag}}", TAG],
        capture_output=True,
        text=True,
    )
    for name in names.stdout.split():
        if name != image:
            subprocess.run(["podman", *tool, "rmi", name], capture_output=True)
    subprocess.run(["podman", *tool, "image", "prune", "--force"], capture_output=True)
    fcntl.flock(IN_USE[-1], fcntl.LOCK_SH)


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
