"""The hosts and the job that a launcher's command names, and whether the hosts answer."""

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from distsent.errors import UserError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")


def check_user() -> None:
    """Raise UserError for a user without a name: ssh and sshd would not work."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        who = f"this pod runs as user {os.getuid()}, which the image does not know"
        raise UserError(f"{who}, so ssh cannot work: set runAsUser: 1000 (mpiuser)") from None


def hosts_of(command: Sequence[str]) -> list[str]:
    """The hosts of `horovodrun ... --hostfile FILE` or `-H a:2,b:2`; none for other commands."""
    for option, value in pairwise(command):
        if option in ("-H", "--hosts"):
            return [host.split(":")[0] for host in value.split(",")]
        if option in ("--hostfile", "-hostfile"):
            return read_hostfile(value)
    return []


def read_hostfile(path: str) -> list[str]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        hint = "the operator writes it into the launcher of an MPIJob"
        raise UserError(f"{path}: {error.strerror}; {hint}") from None
    hosts = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not hosts:
        raise UserError(f"{path} names no host; is spec.mpiReplicaSpecs.Worker.replicas 0?")
    return hosts


def job_arguments(command: Sequence[str]) -> tuple[str | None, list[str]]:
    """The job file, if any, and the overrides of a command with `distsent.train`."""
    words = command[list(command).index("distsent.train") + 1 :]
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    return next((word for word in words if "=" not in word), None), overrides


def discover_hosts(script: str) -> list[str]:
    """The hosts with running pods, one a line in the output of the operator's script."""
    done = subprocess.run([script], capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    return sorted({line.split(":")[0].strip() for line in lines if line.strip()})


def run_on(host: str, command: str) -> str:
    """Run a command on a host. Empty if it succeeds, else the last line of ssh's errors."""
    words = [*SSH, host, command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, input="", timeout=20)
    except subprocess.TimeoutExpired:
        return "no answer in 20 s"
    errors = done.stderr.strip().splitlines() or [f"ssh exit code {done.returncode}"]
    return errors[-1] if done.returncode else ""


def unreachable(hosts: Sequence[str]) -> dict[str, str]:
    """The hosts that do not answer, and the reasons."""
    with ThreadPoolExecutor(max_workers=min(32, len(hosts) or 1)) as pool:
        errors = pool.map(lambda host: run_on(host, "true"), hosts)
        return {host: error for host, error in zip(hosts, errors, strict=True) if error}


def wait_for_hosts(hosts: list[str], seconds: float, stop: Callable[[], bool]) -> dict[str, str]:
    """Wait until all hosts answer. Returns those that do not after `seconds` or at a stop."""
    end, attempt, missing = time.monotonic() + seconds, 0, unreachable(hosts)
    while missing and time.monotonic() < end and not stop():
        if attempt in (0, 3) or attempt % 10 == 9:
            host, error = next(iter(missing.items()))
            count = f"{len(missing)} of {len(hosts)} workers"
            print(f"distsent: waiting for {count}: {host}: {error}", flush=True)
        time.sleep(min(2.0**attempt, 10.0))
        attempt, missing = attempt + 1, unreachable(list(missing))
    return missing
