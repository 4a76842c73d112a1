"""The hosts of a job's workers: their names, and what ssh says about them."""

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from distsent.errors import UserError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
ANSWER = 20.0  # seconds for a host
MEMORY_NOTE = Path("/tmp/distsent-out-of-memory")  # a worker's first process writes it
READ_NOTE = f"cat {MEMORY_NOTE} >&2 && rm -f {MEMORY_NOTE} && exit 1; exit 0"


def hosts_of(command: Sequence[str]) -> list[str]:
    """The hosts of `horovodrun ... --hostfile FILE` or `-H a:2,b:2`; none for other commands."""
    options = dict(pairwise(command))
    names = options.get("-H") or options.get("--hosts")
    path = options.get("--hostfile") or options.get("-hostfile")
    if names or not path:
        return [host.split(":")[0] for host in names.split(",")] if names else []
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the operator writes it for MPIJobs") from None
    hosts = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not hosts:
        raise UserError(f"{path} names no host; is spec.mpiReplicaSpecs.Worker.replicas 0?")
    return hosts


def wait_for_hosts(
    hosts: list[str], seconds: float, is_stopped: Callable[[], bool]
) -> dict[str, str]:
    """Wait until all hosts answer. Returns those that do not after `seconds` or at a stop."""
    end, attempt, missing = time.monotonic() + seconds, 0, unreachable(hosts)
    while missing and time.monotonic() < end and not is_stopped():
        if attempt in (0, 3) or attempt % 10 == 9:
            host, error = next(iter(missing.items()))
            count = f"{len(missing)} of {len(hosts)} workers"
            way_out = f"; {evicted(host)}" if attempt else ""  # at first it may just be late
            print(f"distsent: waiting for {count}: {host}: {error}{way_out}", flush=True)
        time.sleep(min(2.0**attempt, 10.0))
        attempt, missing = attempt + 1, unreachable(list(missing))
    return missing


def evicted(host: str) -> str:
    """What to do if the kubelet has evicted a worker: the operator does not make it again."""
    pod, _, namespace, *_ = [*host.split("."), "", ""]
    kubectl = f"kubectl -n {namespace}" if namespace else "kubectl"
    return f"see {kubectl} describe pod {pod}; if it is Evicted, {kubectl} delete pod {pod}"


def unreachable(hosts: Sequence[str]) -> dict[str, str]:
    """The hosts that do not answer, and the reasons."""
    return on_all(hosts, "true")


def out_of_memory(hosts: Sequence[str]) -> list[str]:
    """A line for each host on which a process was killed at the memory limit since the last ask."""
    said = on_all(hosts, READ_NOTE).items()
    return [f"{host}: {line}" for host, line in said if line.startswith("out of memory")]


def on_all(hosts: Sequence[str], command: str) -> dict[str, str]:
    """Run a command on hosts. Returns those where it failed, and the reasons."""
    with ThreadPoolExecutor(max_workers=min(32, len(hosts) or 1)) as pool:
        errors = pool.map(lambda host: run_on(host, command), hosts)
        return {host: error for host, error in zip(hosts, errors, strict=True) if error}


def run_on(host: str, command: str) -> str:
    """Run a command on a host. Empty if it succeeds, else the last line of ssh's errors."""
    words = [*SSH, host, command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, input="", timeout=ANSWER)
    except subprocess.TimeoutExpired:
        return f"no answer in {ANSWER:g} s"
    except OSError as error:
        return str(error)
    errors = done.stderr.strip().splitlines() or [f"ssh exit code {done.returncode}"]
    return errors[-1] if done.returncode else ""
