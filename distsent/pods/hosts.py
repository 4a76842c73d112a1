"""The hosts of a job's workers: their names, and what ssh says about them."""

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

from distsent.errors import UserError

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
ANSWER = 20.0  # seconds for a host
SLOTS = re.compile(r"\s*([^#\s]+)(?:.*\bslots=(\d+))?")  # a line of a hostfile
TRAINJOB_HOST = re.compile(r"(?P<pod>(?P<job>.+)-node-\d+-(?P<index>\d+))\.(?P=job)(\..*)?")
JOBSET = "jobset.sigs.k8s.io"
MEMORY_NOTE = Path("/tmp/distsent-out-of-memory")  # a worker's first process writes it
READ_NOTE = f"cat {MEMORY_NOTE} >&2 && rm -f {MEMORY_NOTE} && exit 1; exit 0"


def options_of(command: Sequence[str]) -> dict[str, str]:
    parts = (word.split("=", 1) if word.startswith("--") else [word] for word in command)
    return dict(pairwise(chain.from_iterable(parts)))


def hosts_of(command: Sequence[str]) -> dict[str, int]:
    """The hosts, with their slots, of `horovodrun ... --hostfile FILE` or `-H a:2,b:2`.

    Empty for other commands. Raises UserError.
    """
    options = options_of(command)
    names = options.get("-H") or options.get("--hosts")
    path = options.get("--hostfile") or options.get("-hostfile")
    if names or not path:
        pairs = [host.partition(":") for host in names.split(",")] if names else []
        return {host: int(slots) if slots.isdigit() else 1 for host, _, slots in pairs}
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        writer = "the operator writes it for MPIJobs, and for TrainJobs with the mpi policy"
        raise UserError(f"{path}: {error.strerror}; {writer}") from None
    found = [SLOTS.match(line) for line in lines]
    hosts = {host[1]: int(host[2] or 1) for host in found if host is not None}
    if not hosts:
        raise UserError(f"{path} names no host; are Worker.replicas or trainer.numNodes 0?")
    return hosts


def with_size(command: list[str], hosts: Mapping[str, int]) -> list[str]:
    """The command with -np for all slots of its hosts, where horovodrun is not told."""
    is_told = not {"-np", "--num-proc"}.isdisjoint(options_of(command))
    if is_told or not hosts or Path(command[0]).name != "horovodrun":
        return command
    return [command[0], "-np", str(sum(hosts.values())), *command[1:]]


def wait_for_hosts(
    hosts: list[str], seconds: float, is_stopped: Callable[[], bool]
) -> dict[str, str]:
    """Wait until all hosts answer. Returns those that do not after `seconds` or at a stop."""
    end, attempt, missing = time.monotonic() + seconds, 0, unreachable(hosts)
    while missing and time.monotonic() < end and not is_stopped():
        if attempt in (0, 3) or attempt % 10 == 9:
            host, error = next(iter(missing.items()))
            count = f"{len(missing)} of {len(hosts)} workers"
            way_out = f"; {advice(host)}" if attempt else ""  # at first it may just be late
            print(f"distsent: waiting for {count}: {host}: {error}{way_out}", flush=True)
        time.sleep(min(2.0**attempt, 10.0))
        attempt, missing = attempt + 1, unreachable(list(missing))
    return missing


def advice(host: str) -> str:
    """What to do about a missing worker.

    The MPI operator does not make a worker again that the kubelet has evicted; a JobSet does.
    """
    if found := TRAINJOB_HOST.fullmatch(host):
        labels = f"{JOBSET}/jobset-name={found['job']},{JOBSET}/replicatedjob-name=node"
        labels += f",batch.kubernetes.io/job-completion-index={found['index']}"
        return f"its pod is {found['pod']}-xxxxx: see kubectl describe pod -l {labels}"
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
