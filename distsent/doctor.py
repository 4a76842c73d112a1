"""Check this machine:  python -m distsent.doctor [--json] [--run-dir FOLDER]

One line per check: ok, warn or fail, what was checked, what was found, how to fix it. The exit
code is 1 if any check fails. Nothing is trained and nothing is downloaded. In a SLURM allocation,
all of its tasks are checked too.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from distsent import cli
from distsent.distributed.host_name import host_name_fix, host_name_problem
from distsent.distributed.launchers import HOROVODRUN, MPICH, OPEN_MPI, Launch, find_launch
from distsent.errors import FAILED, FINISHED, UserError
from distsent.runtime import slurm_probe
from distsent.runtime.cgroup import cpu_quota
from distsent.runtime.slurm_probe import Check, run_command

OK, WARN, FAIL = "ok", "warn", "fail"
# Horovod, torch and Python that worked together in tools/try_horovod.sh.
TRIED = {
    ("0.28.1", torch, python) for torch in ("2.13", "2.14") for python in ("3.11", "3.12", "3.13")
}

# Each library is imported in a process of its own, because a broken MPI aborts its process.
PROBES = {
    "torch": """import torch
    report(version=torch.__version__, cuda=torch.version.cuda, threads=torch.get_num_threads(),
        devices=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())])""",
    "horovod": """import horovod, horovod.torch as hvd
    report(version=horovod.__version__, MPI=bool(hvd.mpi_built()), Gloo=bool(hvd.gloo_built()),
        NCCL=bool(hvd.nccl_built()))""",
    "mpi4py": """import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI
    library = MPI.Get_library_version().split(',')[0]
    report(version=mpi4py.__version__, library=library)""",
}
PROBE = """import json
def report(**found): print(json.dumps(found))
try:
    {}
except Exception as error:
    text = f'{{type(error).__name__}}: {{error}}'.splitlines()[0]
    report(error=text, missing=isinstance(error, ModuleNotFoundError))"""


def check_version(what: str, found: str, least: str) -> Check:
    have, need = ([int(n) for n in re.findall(r"\d+", text)[:3]] for text in (found, least))
    state = OK if have >= need else FAIL
    return Check(state, what, found or "not installed", f"{least} or newer: make setup")


def check_torch(probe: Mapping[str, Any], gpus: int) -> Check:
    if "error" in probe:
        return Check(FAIL, "torch", probe["error"], "make setup")
    devices = probe["devices"]
    found = f"{probe['version']}, {probe['threads']} threads, GPUs: {', '.join(devices) or 'none'}"
    fix = "built for the CPU: make setup DEVICE=cuda"
    if probe["cuda"]:
        fix = "check CUDA_VISIBLE_DEVICES and the driver"
    return Check(OK if len(devices) >= gpus else WARN, "torch", found, f"{gpus} GPUs here; {fix}")


def check_horovod(probe: Mapping[str, Any], gpus: int) -> Check:
    if probe.get("missing"):
        found = "not installed: workers train over torch's transport"
        return Check(WARN, "Horovod", found, "make setup with a C++ compiler builds it")
    if "error" in probe:
        return Check(FAIL, "Horovod", probe["error"], "for another torch or MPI? make clean setup")
    parts = [name for name in ("MPI", "Gloo", "NCCL") if probe[name]]
    found = f"{probe['version']} with {', '.join(parts) or 'no controller'}"
    if not {"MPI", "Gloo"} & set(parts):
        return Check(FAIL, "Horovod", found, "workers cannot communicate: make clean setup")
    if gpus and not probe["NCCL"]:
        fix = "no all-reduce on GPUs: install the CUDA toolkit, then make clean setup DEVICE=cuda"
        return Check(WARN, "Horovod", found, fix)
    state = OK if probe["MPI"] else WARN
    return Check(state, "Horovod", found, "only horovodrun --gloo works, not srun or mpirun")


def check_combination(horovod: str, torch: str, python: str) -> Check:
    """Whether these versions were tried together. Horovod knows no torch that came after it."""
    minor = tuple(".".join(version.split(".")[:2]) for version in (torch, python))
    found = f"Horovod {horovod}, torch {torch}, Python {python}"
    state = OK if (horovod, *minor) in TRIED else WARN
    fix = "not tried together: tools/try_horovod.sh tries it; torchrun needs no Horovod"
    return Check(state, "combination", found, fix)


def check_mpirun(banner: str, env: Mapping[str, str]) -> Check:
    """`banner`: the output of mpirun --version, empty if there is none."""
    found = (banner or "not in PATH").splitlines()[0]
    ignored = [name for name in env if name.startswith("OMPI_MCA_orte_")]
    if "Open MPI) 4." in found:
        return Check(OK, "mpirun", found, "")
    if "Open MPI) 5." in found and ignored:
        fix = "all workers on one host: use Open MPI 4.1"
        return Check(FAIL, "mpirun", f"{found} ignores {ignored[0]}", fix)
    fix = "horovodrun over MPI needs Open MPI 4.1; horovodrun --gloo needs no MPI"
    return Check(WARN, "mpirun", found, fix)


def check_mpi4py(probe: Mapping[str, Any], banner: str) -> Check:
    if "error" in probe:
        fix = "make setup; without it prepare runs on one worker only"
        return Check(WARN if probe["missing"] else FAIL, "mpi4py", probe["error"], fix)
    number = re.compile(r"\d+\.\d+\.\d+")
    same = number.findall(probe["library"])[:1] == number.findall(banner)[:1]
    found = f"{probe['version']} on {probe['library']}"
    fix = "mpirun is of another MPI: put the one that Horovod was built with first in PATH"
    return Check(OK if same or not banner else WARN, "mpi4py", found, fix)


def check_host_name(name: str) -> Check:
    problem = host_name_problem(name)
    return Check(WARN if problem else OK, "host name", problem or name, host_name_fix(name))


def check_cores(allowed: int, quota: int | None, omp: str, workers: int) -> Check:
    """`quota`: cores' worth of time that the container may use; None without a limit."""
    usable = min(allowed, quota or allowed)
    found = f"{usable} usable, workers on this host: {workers}, OMP_NUM_THREADS: {omp or 'not set'}"
    if omp and not re.fullmatch("[1-9][0-9]*", omp):
        fix = "OMP_NUM_THREADS must be a number of threads: unset it or correct it"
        return Check(FAIL, "cores", found, fix)
    share = max(1, usable // workers)
    fix = f"workers compete for cores: OMP_NUM_THREADS={share}, or unset"
    return Check(WARN if int(omp or 1) > share else OK, "cores", found, fix)


def check_space(what: str, found: str, size: int, least: int, fix: str) -> Check:
    """`size` in bytes, 0 if the folder is missing or not writable; `least` in GiB."""
    state = OK if size >= least * 2**30 else WARN if size else FAIL
    found = f"{size / 2**30:.1f} GiB {found}{'' if size else ', or not writable'}"
    return Check(state, what, found, fix)


def check_hub(env: Mapping[str, str], cached: bool) -> Check:
    offline = env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    mode, home = "offline" if offline else "online", env.get("HF_HOME") or "not set"
    fix = "its cache is empty: use local folders in jobs, or fill it while online"
    state = WARN if offline and not cached else OK
    return Check(state, "hub", f"{mode} by HF_HUB_OFFLINE, HF_HOME: {home}", fix)


def check_launcher(env: Mapping[str, str]) -> Check:
    """Who started this process, over which transport it would train, and why."""
    try:
        launch = find_launch(env)
    except UserError as error:
        return Check(FAIL, "launcher", str(error), "docs/launchers.md has the rules")
    tasks = env.get("SLURM_NTASKS", "1")
    if launch == Launch() and tasks != "1" and "SLURM_STEP_ID" not in env:
        found, fix = f"SLURM_NTASKS={tasks}, one process", "start workers with srun, or horovodrun"
        return Check(WARN, "launcher", found, fix)
    found = "none: one process, no transport"
    if launch.promise:
        found = f"{launch.why}: {launch.size} workers over {launch.transport}"
    # SLURM's counts may differ from the others: mpirun starts one task per node.
    sizes = {env[names[1]] for names in (HOROVODRUN, OPEN_MPI, MPICH) if names[1] in env}
    fix = "nested launchers: use one, or unset the other's variables"
    return Check(OK if len(sizes) <= 1 else FAIL, "launcher", found, fix)


def launched_workers(env: Mapping[str, str]) -> int:
    """The number of workers on this host as far as the launcher tells it, at least 1."""
    try:
        return find_launch(env).local_size or 1
    except UserError:
        return 1


def check_disk(what: str, folder: Path, fix: str) -> Check:
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(existing).free if os.access(existing, os.W_OK) else 0
    return check_space(what, f"free in {existing}", free, 2, fix)


def probe_library(name: str) -> dict[str, Any]:
    """What a library reports about itself, or why it cannot be imported."""
    command = [sys.executable, "-c", PROBE.format(PROBES[name])]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if lines := done.stdout.splitlines():
        return dict(json.loads(lines[-1]))
    return {"error": f"import ends with code {done.returncode}", "missing": False}


def run_checks(run_dir: Path, env: Mapping[str, str] = os.environ) -> list[Check]:
    """All checks of this machine and this process."""
    with ThreadPoolExecutor() as pool:  # in parallel: each takes seconds of imports
        probes = dict(zip(PROBES, pool.map(probe_library, PROBES), strict=True))
    gpus = run_command(["nvidia-smi", "-L"])[0].count("GPU ")
    # Like horovodrun, prefer the mpirun of this Python environment.
    mpirun = shutil.which("mpirun", path=f"{sys.prefix}/bin") or "mpirun"
    banner, _ = run_command([mpirun, "--version"])
    versions = {each.name: each.version for each in distributions()}
    cores, omp = len(os.sched_getaffinity(0)), env.get("OMP_NUM_THREADS", "")
    shm = shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0
    shm_fix = "NCCL and MPI may crash: docker --shm-size=2g, Kubernetes emptyDir of medium Memory"
    ssh, ssh_fix = shutil.which("ssh"), "install openssh-client to use several hosts"
    checks = [
        check_version("Python", sys.version.split()[0], "3.11"),
        check_torch(probes["torch"], gpus),
        check_horovod(probes["horovod"], gpus),
        check_mpirun(banner, env),
        check_mpi4py(probes["mpi4py"], banner),
        check_version("transformers", versions.get("transformers", ""), "5.0"),
        check_version("datasets", versions.get("datasets", ""), "4.0"),
        check_host_name(socket.gethostname()),
        check_cores(cores, cpu_quota(), omp, launched_workers(env)),
        check_space("shared memory", "in /dev/shm", shm, 1, shm_fix),
        check_disk("runs", run_dir, "free some space, or set another run.dir"),
        check_disk("temporary", Path(tempfile.gettempdir()), "free some space, or set TMPDIR"),
        Check(OK if ssh else WARN, "ssh", ssh or "no client", ssh_fix),
        check_hub(env, slurm_probe.has_hub_cache(env)),
    ]
    if "version" in probes["horovod"] and "version" in probes["torch"]:
        found = probes["horovod"]["version"], probes["torch"]["version"], sys.version.split()[0]
        checks.append(check_combination(*found))
    tasks = slurm_probe.can_start_tasks(env)
    checks += slurm_probe.check_allocation(run_dir, env) if tasks else [check_launcher(env)]
    return [check._replace(fix="") if check.state == OK else check for check in checks]


def main(arguments: list[str]) -> int:
    parser = cli.Parser("doctor", __doc__)
    add = parser.add_argument
    add("--json", action="store_true", help="a list of objects with state, what, found, fix")
    add("--run-dir", nargs="?", default="runs", metavar="FOLDER", help="folder of the runs (runs)")
    options = parser.parse_args(arguments)
    checks = run_checks(Path(options.run_dir or "runs"))
    if options.json:
        print(json.dumps([check._asdict() for check in checks], indent=2))
    else:
        for state, what, found, fix in checks:
            print(f"{state:<4}  {what:<13}  {found}" + (f"  ->  {fix}" if fix else ""))
    return FAILED if any(check.state == FAIL for check in checks) else FINISHED


if __name__ == "__main__":
    cli.run(main)
