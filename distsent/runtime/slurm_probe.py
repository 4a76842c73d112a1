"""A SLURM allocation as its tasks see it: each says what it finds, and where they differ somebody will be surprised.

The doctor starts this file on every task:  srun ... python -m distsent.runtime.slurm_probe RUN_DIR TOKEN
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distsent import fingerprint

PACKAGES = ("distsent", "torch", "transformers", "tokenizers", "datasets", "horovod")
INTERACTIVE = "4294967290"  # the step in which a site may put the shell of salloc

Line = tuple[str, str, str, str]  # state, what, found, cure
Report = Mapping[str, Any]


def inside(env: Mapping[str, str]) -> bool:
    """Whether this process may start tasks in an allocation: it is in one, and no task itself."""
    return "SLURM_JOB_ID" in env and env.get("SLURM_STEP_ID", INTERACTIVE) == INTERACTIVE


def examine(run_dir: Path, env: Mapping[str, str] = os.environ) -> list[Line]:
    """Findings about all tasks of this allocation, started as the job scripts start workers."""
    kind, tasks = env.get("MPI", "pmix"), int(env.get("SLURM_NTASKS", "1"))
    parent = next(
        folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.is_dir()
    )
    with tempfile.TemporaryDirectory(
        prefix=".doctor-", dir=parent if os.access(parent, os.W_OK) else None
    ) as token:
        command = [sys.executable, "-m", "distsent.runtime.slurm_probe", str(parent), token]
        cpus = env.get("SLURM_CPUS_PER_TASK", "1")

        def ask(mpi: str) -> tuple[str, str]:
            return output_of(
                [
                    "srun",
                    f"--mpi={mpi}",
                    f"--ntasks={tasks}",
                    "--label",
                    "--kill-on-bad-exit=0",
                    *command,
                ],
                {"OMP_NUM_THREADS": cpus, **env, "SRUN_CPUS_PER_TASK": cpus},
            )

        told, complaint = ask(kind)
        reports, refused = parse(told), []
        if not reports:  # the rest can be looked at all the same
            refused = conclude([], tasks, kind, complaint)
            reports = parse(ask("none")[0])
    nodes = output_of(["scontrol", "show", "hostnames", env.get("SLURM_JOB_NODELIST", "")], env)[
        0
    ].split()
    lines = conclude(reports, tasks, kind, complaint, nodes) if reports else []
    return [*refused, *(line for line in lines if not (refused and line[1] == "tasks"))]


def parse(told: str) -> list[Report]:
    """What tasks have told of themselves, a line or two each behind their number; other lines are not theirs."""
    reports: dict[str, dict[str, Any]] = defaultdict(dict)
    for line in told.splitlines():
        task, _, said = line.partition(": ")
        if said.startswith("{"):
            reports[task.strip()].update(json.loads(said))
    return list(reports.values())


def output_of(
    command: Sequence[str], env: Mapping[str, str] | None = None, seconds: float = 120
) -> tuple[str, str]:
    """What a command prints until it ends or the time is up, and the first line of its complaints."""
    try:
        done = subprocess.run(
            command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(), f"no end within {seconds:g} s"
    except OSError as error:
        return "", str(error)
    return done.stdout.decode(), (done.stderr.decode().strip().splitlines() or [""])[0]


def conclude(
    reports: list[Report], tasks: int, kind: str, complaint: str = "", nodes: Iterable[str] = ()
) -> list[Line]:
    """What the reports of all tasks amount to. `complaint`: the first line of what srun had to say; `nodes`: who was asked."""
    if not reports:
        return [
            (
                "fail",
                "tasks",
                f"srun --mpi={kind} starts none: {complaint}",
                "srun --mpi=list shows what MPI=... may be",
            )
        ]
    sizes = ", ".join(sorted({str(report.get("size", "none: it aborts")) for report in reports}))
    versions = {report["host"]: report["versions"] for report in reports}
    differing = [
        f"{name} {', '.join(f'{found.get(name)} on {host}' for host, found in sorted(versions.items()))}"
        for name in sorted({name for found in versions.values() for name in found})
        if len({found.get(name) for found in versions.values()}) > 1
    ]
    short = [
        f"{r['host']} ({r['threads']} threads, {r['cores']} cores)"
        for r in reports
        if r["threads"] > r["cores"]
    ]
    closed = [r["host"] for r in reports if not r["writable"]]
    apart = [r["host"] for r in reports if not r["shared"]]
    empty = [r["host"] for r in reports if not r["cached"]]
    silent = set(nodes) - {r["host"].split(".")[0] for r in reports} - set(versions)
    if silent:
        return [
            (
                "fail",
                "tasks",
                f"no word from {', '.join(sorted(silent))}: {complaint}",
                "is it up, and the environment there?",
            )
        ]
    table = (
        ("tasks", "fail", sizes != str(tasks), f"{tasks} on {len(versions)} nodes by srun --mpi={kind}; MPI sees {sizes}",
         "no PMI between SLURM and MPI, each task thinks it is alone: another MPI=..., or LAUNCHER=horovodrun"),
        ("versions", "fail", bool(differing), "; ".join(differing) or "the same on all nodes",
         "one checkout and one environment, on a disk that all nodes see"),
        ("cores a task", "warn", bool(short), named(short, "too few on "), "threads wait for each other: more --cpus-per-task"),
        ("storage", "fail", bool(closed), named(closed, "not writable on "), "run.dir on a disk that all nodes may write to"),
        ("shared disk", "fail", bool(apart) and not closed, named(apart, "not there on "), "run.dir on a disk that all nodes see"),
        ("hub cache", "warn", bool(empty), named(empty, "empty on "), "fill HF_HOME on a node that reaches the hub"),
    )  # fmt: skip
    return [(bad if fault else "ok", what, found, cure) for what, bad, fault, found, cure in table]


def named(hosts: Iterable[str], trouble: str) -> str:
    unique = ", ".join(dict.fromkeys(hosts))
    return f"{trouble}{unique}" if unique else "well on all nodes"


def cached(env: Mapping[str, str]) -> bool:
    """Whether models or corpora of the hub are kept here."""
    hub = Path(
        env.get("HF_HUB_CACHE") or f"{env.get('HF_HOME') or '~/.cache/huggingface'}/hub"
    ).expanduser()
    return hub.is_dir() and any(hub.iterdir())


def look(run_dir: Path, token: Path, env: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What a task finds where it runs."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "missing"
    versions["distsent"] += f" ({fingerprint()[:8]})"
    cores = min(len(os.sched_getaffinity(0)), int(env.get("SLURM_CPUS_PER_TASK") or 1 << 20))
    return {
        "host": platform.node(), "versions": versions, "cores": cores, "threads": int(env.get("OMP_NUM_THREADS") or 1),
        "writable": os.access(run_dir, os.W_OK), "shared": token.is_dir(), "cached": cached(env),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(look(Path(sys.argv[1]), Path(sys.argv[2]))), flush=True)
    from mpi4py import MPI  # aborts, rather than fails, where it does not fit SLURM

    print(json.dumps({"size": MPI.COMM_WORLD.size}), flush=True)
