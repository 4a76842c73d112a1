"""Files of a pod as the kubelet provides them: ConfigMaps, Secrets, hosts, DNS."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from itertools import count
from pathlib import Path

from image_machine import GATEWAY

# Waits of Kubernetes are this much shorter here. Waits of distsent stay as they are.
FASTER = 30
LAG = 90 / FASTER  # seconds until the kubelet shows a change of a ConfigMap
Files = dict[str, tuple[str, int]]  # text and mode by name


class Projected:
    """A ConfigMap or a Secret in pods: links into `..data`, which the kubelet swaps as a whole."""

    def __init__(self, folder: Path, files: Files, group: int | None = None) -> None:
        self.folder, self._group, self._numbers = folder, group, count()
        self._timer = threading.Timer(0.0, lambda: None)
        folder.mkdir(parents=True)
        self.write(files)

    def write(self, files: Files) -> None:
        """Show these files at once, as a new pod finds them."""
        self._timer.cancel()
        inner = self.folder / f"..{time.time_ns()}_{next(self._numbers)}"
        inner.mkdir()
        for name, (text, mode) in files.items():
            (inner / name).write_text(text)
            share(inner / name, self._group, mode)
            if not (self.folder / name).is_symlink():
                (self.folder / name).symlink_to(f"..data/{name}")
        data, new = self.folder / "..data", self.folder / "..data_tmp"
        old = data.resolve() if data.is_symlink() else None
        new.symlink_to(inner.name)
        new.replace(data)
        if old is not None:
            shutil.rmtree(old)

    def update(self, files: Files) -> None:
        """Show these files as late as the kubelet may show them in a running pod."""
        self._timer.cancel()
        self._timer = threading.Timer(LAG, self.write, (files,))
        self._timer.daemon = True
        self._timer.start()

    def close(self) -> None:
        self._timer.cancel()


def share(path: Path, group: int | None, mode: int) -> None:
    """Change the group and the mode of a volume, as fsGroup does."""
    if group is not None:
        os.chown(path, -1, group)
    path.chmod(mode)


def new_key(folder: Path) -> Files:
    """The files of the Secret `<job>-ssh`."""
    folder.mkdir()
    words = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "521", "-m", "PEM", "-N", ""]
    subprocess.run([*words, "-f", str(folder / "id_rsa")], check=True)
    texts = {path.name: path.read_text() for path in folder.iterdir()}
    texts["authorized_keys"] = texts["id_rsa.pub"]
    return {name: (text, 0o644) for name, text in texts.items()}


def name_files(folder: Path, pod: str, address: str, domain: str) -> list[tuple[Path, str]]:
    """The pod's /etc/hosts and /etc/resolv.conf. `domain`: JOB.NAMESPACE.svc.cluster.local"""
    folder.mkdir(parents=True, exist_ok=True)
    names = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    names += [f"{address}\t{pod}.{domain}\t{pod}"]
    parents = domain.split(".")[1:]
    search = " ".join(".".join(parents[start:]) for start in range(3))
    resolver = [f"search {search}", f"nameserver {GATEWAY}", "options ndots:5"]
    files = [(folder / "hosts", names), (folder / "resolv.conf", resolver)]
    for path, lines in files:
        path.write_text("".join(f"{line}\n" for line in lines))
    return [(path, f"/etc/{path.name}") for path, _ in files]
