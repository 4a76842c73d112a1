"""What each task of a SLURM allocation finds on its node, and where the nodes differ.

The doctor starts it on every task:  srun ... python -m distsent.runtime.slurm_probe RUN_DIR TOKEN
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from distsent import fingerprint
from distsent.distributed.launchers import TORCH, find_launch

PACKAGES = ("distsent", "torch", "transformers", "tokenizers", "datasets", "horovod")
INTERACTIVE = "4294967290"  # the step in which a site may run the shell of salloc

Report = Mapping[str, Any]


class Check(NamedTuple):
    """One line of the doctor's table. `state`: ok, warn or fail."""

    state: str
    what: str
    found: str
    fix: str


def can_start_tasks(env: Mapping[str, str]) -> bool:
    """Whether this process is in an allocation and not itself a task of it."""
    return "SLURM_JOB_ID" in env and env.get("SLURM_STEP_ID", INTERACTIVE) == INTERACTIVE


def check_allocation(run_dir: Path, env: Mapping[str, str] = os.environ) -> list[Check]:
    """Checks of all tasks of this allocation, started in the same way as workers."""
    torch, tasks = env.get("LAUNCHER") == "torch", int(env.get("SLURM_NTASKS", "1"))
    mpi = "none" if torch else env.get("MPI", "pmix")
    folder = run_dir.absolute()
    parent = next(path for path in (folder, *folder.parents) if path.is_dir())
    writable = parent if os.access(parent, os.W_OK) else None
    allocated = ["scontrol", "show", "hostnames", env.get("SLURM_JOB_NODELIST", "")]
    nodes = run_command(allocated, env)[0].split()
    cpus = env.get("SLURM_CPUS_PER_TASK", "1")
    task_env = {"OMP_NUM_THREADS": cpus, **env, "SRUN_CPUS_PER_TASK": cpus}
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=writable) as token:
        program = [sys.executable, "-m", "distsent.runtime.slurm_probe", str(parent), token]

        def run_tasks(mpi: str) -> tuple[list[Report], str]:
            srun = ["srun", f"--mpi={mpi}", f"--ntasks={tasks}", "--label", "--kill-on-bad-exit=0"]
            output, complaint = run_command([*srun, *program], task_env)
            return parse_reports(output), complaint

        reports, complaint = run_tasks(mpi)
        if not reports:  # without MPI, everything else can still be checked
            refused = diagnose([], tasks, mpi, complaint)
            others = diagnose(run_tasks("none")[0], tasks, mpi, complaint, nodes)
            return [*refused, *(check for check in others if check.what != "tasks")]
    return diagnose(reports, tasks, mpi, complaint, nodes)


def parse_reports(output: str) -> list[Report]:
    """The reports of all tasks: lines `RANK: {...}`, one or two per task; others are ignored."""
    reports: dict[str, dict[str, Any]] = defaultdict(dict)
    for line in output.splitlines():
        task, _, text = line.partition(": ")
        if text.startswith("{"):
            reports[task.strip()].update(json.loads(text))
    return list(reports.values())


def run_command(
    command: Sequence[str], env: Mapping[str, str] | None = None, seconds: float = 120
) -> tuple[str, str]:
    """A command's standard output, at most `seconds` of it, and its first line of errors."""
    try:
        done = subprocess.run(command, env=env, timeout=seconds, input=b"", capture_output=True)
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(), f"no end within {seconds:g} s"
    except OSError as error:
        return "", str(error)
    return done.stdout.decode(), (done.stderr.decode().strip().splitlines() or [""])[0]


def diagnose(
    reports: list[Report], tasks: int, mpi: str, complaint: str = "", nodes: Iterable[str] = ()
) -> list[Check]:
    """The checks that follow from all tasks' reports.

    `complaint`: the first line of srun's errors; `nodes`: the nodes of the allocation.
    """
    if not reports:
        found = f"srun --mpi={mpi} starts none: {complaint}"
        return [Check("fail", "tasks", found, "srun --mpi=list shows values of MPI=...")]
    versions = {report["host"]: report["versions"] for report in reports}
    hosts = {report["host"].split(".")[0] for report in reports} | set(versions)
    if silent := set(nodes) - hosts:
        found = f"no answer from {', '.join(sorted(silent))}: {complaint}"
        return [Check("fail", "tasks", found, "check that the node is up and has the environment")]
    sizes = ", ".join(sorted({str(report.get("size", "none: it aborts")) for report in reports}))
    by = "torch" if mpi == "none" else "MPI"
    found = f"{tasks} on {len(versions)} nodes by srun --mpi={mpi}; {by} sees {sizes}"
    fix = "no PMI between SLURM and MPI: set another MPI=..., or LAUNCHER=torch"
    checks = [Check("ok" if sizes == str(tasks) else "fail", "tasks", found, fix)]

    def on_nodes(problem: str, key: str) -> str:
        hosts = dict.fromkeys(report["host"] for report in reports if not report[key])
        return f"{problem} on {', '.join(hosts)}" if hosts else ""

    few = [report for report in reports if report["threads"] > report["cores"]]
    short = {f"{r['host']} ({r['threads']} threads, {r['cores']} cores)": None for r in few}
    read_only = on_nodes("not writable", "writable")
    not_shared = "" if read_only else on_nodes("not there", "shared")
    faults = (
        ("versions", "fail", "; ".join(_differing_versions(versions)),
         "use one checkout and one environment, on a disk that all nodes share"),
        ("cores per task", "warn", short and f"too few on {', '.join(short)}",
         "threads wait for each other: increase --cpus-per-task"),
        ("storage", "fail", read_only, "set run.dir to a disk that all nodes may write to"),
        ("shared disk", "fail", not_shared, "set run.dir to a disk that all nodes share"),
        ("hub cache", "warn", on_nodes("empty", "cached"),
         "fill HF_HOME on a node that reaches the hub"),
    )  # fmt: skip
    for what, state, fault, fix in faults:
        checks.append(Check(state if fault else "ok", what, fault or "fine on all nodes", fix))
    return checks


def _differing_versions(versions: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for name in sorted({name for found in versions.values() for name in found}):
        if len({found.get(name) for found in versions.values()}) > 1:
            each = (f"{found.get(name)} on {host}" for host, found in sorted(versions.items()))
            yield f"{name} {', '.join(each)}"


def has_hub_cache(env: Mapping[str, str]) -> bool:
    """Whether the hub's local cache holds anything."""
    home = env.get("HF_HOME") or "~/.cache/huggingface"
    hub = Path(env.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()
    return hub.is_dir() and any(hub.iterdir())


def report_task(run_dir: Path, token: Path, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a task finds on its node. `token`: a folder that exists if the disk is shared."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    versions["distsent"] += f" ({fingerprint()[:8]})"
    cores = min(len(os.sched_getaffinity(0)), int(env.get("SLURM_CPUS_PER_TASK") or 1 << 20))
    threads = int(env.get("OMP_NUM_THREADS") or 1)
    storage = {"writable": os.access(run_dir, os.W_OK), "shared": token.is_dir()}
    report = {"host": platform.node(), "versions": versions, "cores": cores, "threads": threads}
    return report | storage | {"cached": has_hub_cache(env)}


if __name__ == "__main__":
    print(json.dumps(report_task(Path(sys.argv[1]), Path(sys.argv[2]))), flush=True)
    launch = find_launch()
    size = launch.size
    if launch.transport != TORCH:
        from mpi4py import MPI  # aborts the process instead of raising if it does not fit SLURM

        size = MPI.COMM_WORLD.size
    print(json.dumps({"size": size}), flush=True)
