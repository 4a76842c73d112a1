"""The hosts of a job, and whether they answer."""

from __future__ import annotations

import itertools
import os
import pwd
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from distsent.errors import UserError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
PAUSES = (1.0, 2.0, 4.0, 8.0, 10.0)  # seconds between tries; the last one repeats


def check_user() -> None:
    """ssh and sshd work only for a user with a name. Raises UserError for another one."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        raise UserError(
            f"this pod runs as user {os.getuid()}, whom the image does not know, so ssh cannot work: set runAsUser: 1000, mpiuser's"
        ) from None


def hosts_of(command: Sequence[str]) -> list[str]:
    """The hosts that `horovodrun ... --hostfile FILE` or `-H a:2,b:2` will use; none for any other command."""
    for option, value in itertools.pairwise(command):
        if option in ("--hostfile", "-hostfile"):
            return read_hostfile(Path(value))
        if option in ("-H", "--hosts"):
            return [host.split(":")[0] for host in value.split(",")]
    return []


def read_hostfile(path: Path) -> list[str]:
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise UserError(
            f"{path}: {error.strerror}; the operator writes it into the launcher of an MPIJob"
        ) from None
    hosts = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not hosts:
        raise UserError(f"{path} names no host; is spec.mpiReplicaSpecs.Worker.replicas 0?")
    return hosts


def discover(script: str) -> list[str]:
    """Hosts that the operator's discover_hosts.sh prints, one a line: those whose pods run."""
    done = subprocess.run([script], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        return []
    return sorted({line.split(":")[0].strip() for line in done.stdout.splitlines() if line.strip()})


def answer(host: str) -> str:
    """Empty if `ssh host true` works, else the last line of what it said."""
    try:
        done = subprocess.run(
            [*SSH, host, "true"],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=20,
        )
    except subprocess.TimeoutExpired:
        return "no answer in 20 s"
    return (
        ""
        if done.returncode == 0
        else (done.stderr.strip().splitlines() or [f"ssh ended with {done.returncode}"])[-1]
    )


def silent(hosts: Sequence[str]) -> dict[str, str]:
    """Those that do not answer, and why."""
    with ThreadPoolExecutor(max_workers=min(32, len(hosts) or 1)) as pool:
        return {host: why for host, why in zip(hosts, pool.map(answer, hosts), strict=True) if why}


def wait_for(hosts: Sequence[str], seconds: float, stopped: Callable[[], bool]) -> dict[str, str]:
    """Wait until all hosts answer; returns those that still do not after `seconds`, or when stopped."""
    end, tries, missing = time.monotonic() + seconds, 0, silent(hosts)
    while missing and time.monotonic() < end and not stopped():
        if tries in (0, 3) or tries % 10 == 9:
            host, why = next(iter(missing.items()))
            print(
                f"distsent: waiting for {len(missing)} of {len(hosts)} workers: {host}: {why}",
                flush=True,
            )
        time.sleep(PAUSES[min(tries, len(PAUSES) - 1)])
        tries += 1
        missing = silent(list(missing))
    return missing
