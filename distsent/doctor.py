"""What is installed here, and what is wrong with it:  python -m distsent.doctor [--json] [--run-dir FOLDER]

A line is a finding: ok, warn or fail, what was looked at, what was found, the cure. Exit code 1 if anything fails.
Nothing is trained and nothing goes over the network. In a SLURM allocation, all its tasks are asked too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from distsent import cli
from distsent.errors import FAILED, FINISHED
from distsent.runtime import slurm_probe
from distsent.runtime.cgroup import cpu_quota

OK, WARN, FAIL = "ok", "warn", "fail"

# Each library is imported in a process of its own: one that aborts, as a broken MPI does, is then a finding too.
PROBES = {
    "torch": """import torch; say(version=torch.__version__, cuda=torch.version.cuda, threads=torch.get_num_threads(),
        devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])""",
    "horovod": """import horovod, horovod.torch as hvd; say(version=horovod.__version__, MPI=bool(hvd.mpi_built()),
        Gloo=bool(hvd.gloo_built()), NCCL=bool(hvd.nccl_built()))""",
    "mpi4py": """import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; say(version=mpi4py.__version__,
        library=MPI.Get_library_version().split(',')[0])""",
}
PROBE = """import json
def say(**found): print(json.dumps(found))
try: {}
except Exception as error:
    say(error=f'{{type(error).__name__}}: {{error}}'.splitlines()[0], missing=isinstance(error, ModuleNotFoundError))"""


class Finding(NamedTuple):
    """One line of the table."""

    state: str
    what: str
    found: str
    cure: str


def check_version(what: str, found: str, least: str) -> Finding:
    have, need = (
        [int(number) for number in re.findall(r"\d+", text)[:3]] for text in (found, least)
    )
    return Finding(
        OK if have >= need else FAIL,
        what,
        found or "not installed",
        f"{least} or newer: make setup",
    )


def check_torch(probe: Mapping[str, Any], gpus: int) -> Finding:
    if "error" in probe:
        return Finding(FAIL, "torch", probe["error"], "make setup")
    found = f"{probe['version']}, {probe['threads']} threads, GPUs: {', '.join(probe['devices']) or 'none'}"
    cure = (
        "see CUDA_VISIBLE_DEVICES and the driver"
        if probe["cuda"]
        else "built for the CPU: make setup DEVICE=cuda"
    )
    return Finding(
        OK if len(probe["devices"]) >= gpus else WARN, "torch", found, f"{gpus} GPUs here; {cure}"
    )


def check_horovod(probe: Mapping[str, Any], gpus: int) -> Finding:
    if probe.get("missing"):
        return Finding(WARN, "Horovod", "not installed: one process only", "make setup")
    if "error" in probe:
        return Finding(
            FAIL, "Horovod", probe["error"], "built for another torch or MPI? make clean setup"
        )
    parts = [name for name in ("MPI", "Gloo", "NCCL") if probe[name]]
    found = f"{probe['version']} with {', '.join(parts) or 'no controller'}"
    if not {"MPI", "Gloo"} & set(parts):
        return Finding(FAIL, "Horovod", found, "workers cannot talk: make clean setup")
    if gpus and not probe["NCCL"]:
        cure = "GPUs cannot exchange: install the CUDA toolkit, then make clean setup DEVICE=cuda"
        return Finding(WARN, "Horovod", found, cure)
    return Finding(
        OK if probe["MPI"] else WARN,
        "Horovod",
        found,
        "only horovodrun --gloo works, not srun or mpirun",
    )


def check_mpirun(banner: str, env: Mapping[str, str]) -> Finding:
    """`banner`: what mpirun --version prints, empty if there is none."""
    found = (banner or "not in PATH").splitlines()[0]
    ignored = [name for name in env if name.startswith("OMPI_MCA_orte_")]
    if "Open MPI) 4." in found:
        return Finding(OK, "mpirun", found, "")
    if "Open MPI) 5." in found and ignored:
        return Finding(
            FAIL,
            "mpirun",
            f"{found} ignores {ignored[0]}",
            "all workers on one host: use Open MPI 4.1",
        )
    return Finding(
        WARN,
        "mpirun",
        found,
        "horovodrun over MPI needs Open MPI 4.1; horovodrun --gloo does without",
    )


def check_mpi4py(probe: Mapping[str, Any], banner: str) -> Finding:
    if "error" in probe:
        cure = "make setup; without it prepare works on one worker only"
        return Finding(WARN if probe["missing"] else FAIL, "mpi4py", probe["error"], cure)
    loaded, started = (
        re.findall(r"\d+\.\d+\.\d+", text)[:1] for text in (probe["library"], banner)
    )
    found = f"{probe['version']} on {probe['library']}"
    cure = "mpirun is of another MPI: put the one that Horovod was built with first in PATH"
    return Finding(OK if loaded == started or not banner else WARN, "mpi4py", found, cure)


def check_cores(allowed: int, quota: int | None, omp: str, workers: int) -> Finding:
    """`quota`: cores' worth of time that the container may use, None without a limit."""
    usable = min(allowed, quota or allowed)
    found = f"{usable} usable, workers on this host: {workers}, OMP_NUM_THREADS: {omp or 'not set'}"
    if omp and not re.fullmatch("[1-9][0-9]*", omp):
        return Finding(
            FAIL, "cores", found, "OMP_NUM_THREADS is a number of threads: unset it, or give one"
        )
    share = max(1, usable // workers)
    cure = f"workers fight for cores: OMP_NUM_THREADS={share}, or unset"
    return Finding(WARN if int(omp or 1) > share else OK, "cores", found, cure)


def check_space(what: str, found: str, size: int, least: int, cure: str) -> Finding:
    """`size` in bytes, 0 for what is missing or cannot be written to; `least` in GiB."""
    state = OK if size >= least * 2**30 else WARN if size else FAIL
    return Finding(
        state, what, f"{size / 2**30:.1f} GiB {found}" + ("" if size else ", or not writable"), cure
    )


def check_hub(env: Mapping[str, str], cached: bool) -> Finding:
    offline = env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    found = f"{'offline' if offline else 'online'} by HF_HUB_OFFLINE, HF_HOME: {env.get('HF_HOME') or 'not set'}"
    cure = "its cache is empty: name local folders in jobs, or fill it while online"
    return Finding(WARN if offline and not cached else OK, "hub", found, cure)


def check_launcher(env: Mapping[str, str]) -> Finding:
    """Who started this process among how many, and whether all that say so agree."""
    step = (
        "SLURM_STEP_ID" in env
    )  # else SLURM's counts are those of the allocation, not of this process
    sizes = ["HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]
    started = [name for name in (*sizes, "PMIX_RANK", "PMI_RANK") if name in env]
    slurm = [name for name in ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS") if name in env]
    found = ", ".join(f"{name}={env[name]}" for name in started + slurm) or "none: one process"
    if not started and any(env[name] != "1" for name in slurm):
        cure = "no PMI variables, each task thinks it is alone: srun --mpi=pmix, or horovodrun"
        return Finding(FAIL if step else WARN, "launcher", found, cure)
    # SLURM's own counts may differ: mpirun starts one task a node and the workers from there.
    agree = len({env[name] for name in sizes if name in env}) <= 1
    return Finding(
        OK if agree else FAIL,
        "launcher",
        found,
        "one launcher inside another: use one, or unset the other",
    )


def probe(name: str) -> dict[str, Any]:
    """What a library says of itself, or what became of the attempt to import it."""
    command = [sys.executable, "-c", PROBE.format(PROBES[name])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said = done.stdout.splitlines()
    return (
        json.loads(said[-1])
        if said
        else {"error": f"import ends with code {done.returncode}", "missing": False}
    )


def look_at_disk(what: str, folder: Path, cure: str) -> Finding:
    folder = next(
        parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir()
    )
    free = shutil.disk_usage(folder).free if os.access(folder, os.W_OK) else 0
    return check_space(what, f"free in {folder}", free, 2, cure)


def examine(run_dir: Path, env: Mapping[str, str] = os.environ) -> list[Finding]:
    """All findings about this machine and this process."""
    with ThreadPoolExecutor() as pool:  # side by side, for each costs seconds of imports
        probes = dict(zip(PROBES, pool.map(probe, PROBES), strict=True))
    gpus = slurm_probe.output_of(["nvidia-smi", "-L"])[0].count("GPU ")
    # As horovodrun of an environment does: beside it before elsewhere.
    banner, _ = slurm_probe.output_of(
        [shutil.which("mpirun", path=f"{sys.prefix}/bin") or "mpirun", "--version"]
    )
    versions = {each.name: each.version for each in distributions()}
    workers = env.get("HOROVOD_LOCAL_SIZE") or env.get("OMPI_COMM_WORLD_LOCAL_SIZE") or "1"
    ssh = shutil.which("ssh")
    shared = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    alone = not slurm_probe.inside(env)
    crash = "NCCL and MPI may crash: --shm-size=2g for a container, in Kubernetes an emptyDir with medium: Memory"
    findings = [
        check_version("Python", sys.version.split()[0], "3.11"),
        check_torch(probes["torch"], gpus),
        check_horovod(probes["horovod"], gpus),
        check_mpirun(banner, env),
        check_mpi4py(probes["mpi4py"], banner),
        check_version("transformers", versions.get("transformers", ""), "5.0"),
        check_version("datasets", versions.get("datasets", ""), "4.0"),
        check_cores(
            len(os.sched_getaffinity(0)), cpu_quota(), env.get("OMP_NUM_THREADS", ""), int(workers)
        ),
        check_space("shared memory", "in /dev/shm", shared, 1, crash),
        look_at_disk("runs", run_dir, "make room, or another run.dir"),
        look_at_disk("temporary", Path(tempfile.gettempdir()), "make room, or another TMPDIR"),
        Finding(
            OK if ssh else WARN,
            "ssh",
            ssh or "no client",
            "install openssh-client, if other hosts are to work",
        ),
        check_hub(env, slurm_probe.cached(env)),
        *(
            [check_launcher(env)]
            if alone
            else (Finding(*each) for each in slurm_probe.examine(run_dir, env))
        ),
    ]
    return [each if each.state != OK else each._replace(cure="") for each in findings]


def main(arguments: list[str]) -> int:
    parser = cli.Parser("doctor", __doc__)
    parser.add_argument(
        "--json", action="store_true", help="a list of objects with state, what, found, cure"
    )
    parser.add_argument(
        "--run-dir", nargs="?", default="runs", metavar="FOLDER", help="where runs go (runs)"
    )
    options = parser.parse_args(arguments)
    findings = examine(Path(options.run_dir or "runs"))
    if options.json:
        print(json.dumps([each._asdict() for each in findings], indent=2))
    for state, what, found, cure in findings if not options.json else []:
        print(f"{state:<4}  {what:<13}  {found}" + (f"  ->  {cure}" if cure else ""))
    return FAILED if any(each.state == FAIL for each in findings) else FINISHED


if __name__ == "__main__":
    cli.run(main)
