"""Who started this process: a launcher's variables, judged in one place for all programs.

`find_launch` says which transport connects the workers, and why. docs/launchers.md has its rules.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from zlib import crc32

from distsent.distributed import slurm_nodes
from distsent.distributed.world import World
from distsent.errors import HostError, UserError

HOROVOD, TORCH, NONE = "horovod", "torch", "none"
TRANSPORT = "DISTSENT_TRANSPORT"  # overrides run.transport
# The variables of each kind of launcher: rank, size, local rank, local size.
HOROVODRUN = "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"
OPEN_MPI = tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"))
MPICH = "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"
SLURM = "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""
TORCHRUN = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"
RANK = (HOROVODRUN[0], OPEN_MPI[0], "PMIX_RANK", MPICH[0])  # of launchers of MPI and Horovod
# Set by programs that start the processes of a node themselves. Other programs that set RANK and
# WORLD_SIZE run as tasks of somebody else, perhaps of srun.
NODE_LAUNCHERS = {"TORCHELASTIC_RUN_ID": "torchrun", "DISTSENT_LAUNCH": "distsent.launch"}
# The processes above a worker: it must not train on without them (runtime/launcher_watch.py).
PROGRAMS = (
    "horovodrun", "mpirun", "mpirun_rsh", "mpiexec", "orterun", "orted", "prterun", "slurmstepd",
    "torchrun", "torch.distributed.run", "torch.distributed.launch", "distsent.launch",
    "show_run",  # of make train
)  # fmt: skip
USE_PMIX = "use `srun --mpi=pmix` (`srun --mpi=list` shows others), or start with `horovodrun`"
ADDRESS = "set MASTER_ADDR to the host of rank 0, and MASTER_PORT"


@dataclass(frozen=True)
class Launch:
    """How this process was started. `local_rank` and `local_size`: None if unknown."""

    transport: str = NONE
    rank: int = 0
    size: int = 1
    local_rank: int | None = 0
    local_size: int | None = 1
    promise: str = ""  # the variable that tells the number of workers, and its value
    why: str = "no launcher"  # who started it, for people
    address: tuple[str, int] | None = None  # torch: where rank 0 or its launcher listens


def find_launch(env: Mapping[str, str] = os.environ, asked: str = "auto") -> Launch:
    """Who started this process, and the transport that follows. `asked`: the key run.transport.

    Raises UserError if the variables are incomplete, or those of two launchers contradict.
    """
    reason = "run.transport"
    if env.get(TRANSPORT):
        asked, reason = env[TRANSPORT], TRANSPORT
    if asked not in ("auto", HOROVOD, TORCH):
        raise UserError(f'{TRANSPORT}={asked[:80]}: expected "auto", "horovod" or "torch"')
    classic, step, torch = _horovod(env), _slurm_step(env), _torch(env)
    if asked == HOROVOD:
        found = classic or (step if step and step.transport == HOROVOD else None)
        if not found and (other := torch or step) and other.size > 1:
            fix = f"{USE_PMIX}, or unset {reason}"
            raise UserError(f"{reason} = horovod, but {other.promise} is no launcher of it: {fix}")
        return found or Launch()
    if asked == TORCH:
        found = torch or step or classic
        return _over_torch(found, env, reason) if found else Launch()
    if torch and classic:
        raise UserError(
            f"{classic.promise} and {torch.promise}: variables of two launchers at once; start "
            f"with one of them, unset the variables of the other, or set {TRANSPORT} to horovod "
            "or torch"
        )
    if torch and step:
        _check_same(torch, step, starts_workers=any(name in env for name in NODE_LAUNCHERS))
    found = torch or classic or step
    if not found:
        _check_complete(env)
        return Launch()
    return _over_torch(found, env) if found.transport == TORCH else found


def is_main_process(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is rank 0 of its launcher, or was started without one."""
    launch = _launch_or_none(env)
    if launch:
        return launch.rank == 0
    # Whatever is wrong, one of the workers must say it.
    return all(env.get(name, "0") == "0" for name in (*RANK, TORCHRUN[0], SLURM[0]))


def is_first_on_host(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first worker on its host, or was started without a launcher."""
    launch = _launch_or_none(env)
    if launch:
        return not launch.local_rank
    names = HOROVODRUN[2], OPEN_MPI[2], TORCHRUN[2], SLURM[2]
    return all(env.get(name, "0") == "0" for name in names)


def _launch_or_none(env: Mapping[str, str]) -> Launch | None:
    """None without a launcher, or if its variables are wrong."""
    try:
        launch = find_launch(env)
    except UserError:
        return None
    return launch if launch.promise else None


def _read(env: Mapping[str, str], names: tuple[str, ...], by: str) -> Launch | None:
    """The launch that four variables describe; None without rank and size. `by`: who sets them."""
    if names[0] not in env or names[1] not in env:
        return None
    numbers = [_number(name, env[name]) if name in env else None for name in names]
    rank, size = numbers[0] or 0, numbers[1] or 0
    if rank >= size:
        found = f"{names[0]}={rank} with {names[1]}={size}"
        # There may be no rank 0 that would say it
        fix = f"ranks are 0 to {names[1]} - 1; correct the launcher's variables"
        raise HostError(f"{found}: {fix}")
    promise = f"{names[1]}={size}"
    transport = TORCH if names in (TORCHRUN, SLURM) else HOROVOD
    return Launch(transport, rank, size, numbers[2], numbers[3], promise, f"{by} ({promise})")


def _number(name: str, text: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", text):
        raise HostError(f"{name}={text[:80]!r}: expected a number; correct or unset it")
    return int(text)


def _port(text: str) -> int:
    port = _number("MASTER_PORT", text)
    if not 1 <= port <= 65535:
        raise HostError(f"MASTER_PORT={port}: expected a port, 1 to 65535; correct it")
    return port


def _horovod(env: Mapping[str, str]) -> Launch | None:
    """Started by horovodrun, mpirun or mpiexec. The most specific variables come first."""
    for names, by in ((HOROVODRUN, "horovodrun"), (OPEN_MPI, "mpirun"), (MPICH, "mpiexec")):
        if names[1] in env and not (names is MPICH and "SLURM_STEP_ID" in env):
            return _read({names[0]: "0", **env}, names, by)
    return None


def _slurm_step(env: Mapping[str, str]) -> Launch | None:
    """Started by srun. In a batch script SLURM's variables describe the allocation instead."""
    if "SLURM_STEP_ID" not in env:
        return None
    pmi = any(name in env for name in ("PMIX_RANK", "PMI_RANK"))
    found = _read(env, SLURM, "srun with PMI" if pmi else "srun without PMI")
    return replace(found, transport=HOROVOD) if found and pmi else found


def _torch(env: Mapping[str, str]) -> Launch | None:
    """Started by torchrun, or by whatever sets the same variables."""
    by = next((NODE_LAUNCHERS[name] for name in NODE_LAUNCHERS if name in env), "")
    found = _read(env, TORCHRUN, by or "RANK and MASTER_ADDR")
    # Platforms tell every container that it is alone. A program that starts workers means it.
    complete = found and (by or (found.size > 1 and env.get("MASTER_ADDR")))
    return found if complete else None


def _check_same(torch: Launch, step: Launch, starts_workers: bool) -> None:
    """Raises UserError unless variables of torch describe the tasks of srun.

    `starts_workers`: each task is a launcher, and has one worker or more.
    """
    if starts_workers and torch.size < step.size:
        raise UserError(
            f"{torch.promise}, but srun started {step.size} tasks ({step.promise}), each of them "
            f"with {torch.why.partition(' ')[0]}: give it --nnodes, or start one task"
        )
    if not starts_workers and (torch.rank, torch.size) != (step.rank, step.size):
        raise UserError(
            f"RANK={torch.rank} {torch.promise}, but srun started rank {step.rank} of {step.size} "
            f"({step.promise}): unset RANK and WORLD_SIZE, set them per task, or set "
            f"{TRANSPORT}=torch if each task starts workers of its own"
        )


def _check_complete(env: Mapping[str, str]) -> None:
    """Raises HostError if variables of torch are there without the others that belong to them."""
    given = [name for name in TORCHRUN[:2] if name in env]
    if not given or (len(given) == 2 and env["WORLD_SIZE"] == "1"):
        return
    found = " ".join(f"{name}={env[name][:80]}" for name in given)
    absent = [name for name in (*TORCHRUN[:2], "MASTER_ADDR") if not env.get(name)]
    fix = "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or unset them to train alone"
    # There may be no rank 0 that would say it
    raise HostError(f"{found} without {' and '.join(absent)}: {fix}")


def _over_torch(found: Launch, env: Mapping[str, str], reason: str = "") -> Launch:
    """The launch over torch, with the address at which its workers meet."""
    address = None
    if found.size > 1:
        host = env.get("MASTER_ADDR") or _first_host(env, found, reason)
        port = env.get("MASTER_PORT")
        address = host, _port(port) if port else _port_of(env)
    why = f"{found.why}, {reason}" if reason else found.why
    return replace(found, transport=TORCH, why=why, address=address)


def _first_host(env: Mapping[str, str], found: Launch, reason: str) -> str:
    """Where rank 0 runs, without MASTER_ADDR. Raises UserError if nothing tells it."""
    if found.promise.startswith(SLURM[1]) and env.get("SLURM_STEP_NODELIST"):
        return next(slurm_nodes.hosts_of(env["SLURM_STEP_NODELIST"]))
    if found.size == found.local_size:
        return "127.0.0.1"
    raise UserError(f"{reason or found.promise}: torch's transport needs MASTER_ADDR: {ADDRESS}")


def _port_of(env: Mapping[str, str]) -> int:
    """The same port for all workers of a start, and most likely another one for each start."""
    names = (
        "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT", "PMIX_NAMESPACE",
        "HOROVOD_GLOO_RENDEZVOUS_PORT",
    )  # fmt: skip
    known = [env[name] for name in names if name in env]
    # Below the ports that systems give to clients; else torchrun's own.
    return 10_000 + crc32(" ".join(known).encode()) % 19_000 if known else 29_500


def init_world(
    transport: str = "auto",
    interface: str | None = None,
    patience: float = 600.0,
    stop: Callable[[], str | None] = lambda: None,
    env: Mapping[str, str] = os.environ,
) -> World:
    """Join the workers that the launcher started.

    `transport`, `interface`: the keys of section run. `patience`: seconds to wait for the others.
    `stop`: why a stop is requested, heard over torch; None if it is not. Raises UserError if the
    launcher's variables are wrong, HostError if workers do not come, Stopped at a stop request.
    """
    launch, elastic = find_launch(env, transport), env.get("HOROVOD_ELASTIC") == "1"
    if launch.size == 1 and not elastic:
        return World()
    if launch.transport == TORCH:
        from distsent.distributed import torch_world

        return torch_world.init(launch, interface, patience, stop)
    promise = f"{launch.promise} promises {launch.size} workers, but"
    try:
        from distsent.distributed import horovod
    except ImportError as error:
        fix = "install it with `make setup`, or start with torchrun, which needs none"
        raise HostError(f"{promise} Horovod cannot be imported ({error}): {fix}") from None
    world = horovod.init(elastic, interface)
    if not elastic and world.size != launch.size:
        raise UserError(
            f"{promise} this process sees {world.size}: the launcher and Horovod's MPI do not fit "
            f"together; under SLURM {USE_PMIX}; `python -m distsent.doctor` checks more"
        )
    world.why = launch.why
    return world
