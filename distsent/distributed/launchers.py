"""The launchers: their programs, the variables that they set, and the world that these describe."""

import os
from collections.abc import Mapping

from distsent.distributed.world import World
from distsent.errors import HostError, UserError

# The most specific launcher comes first. SLURM's variables count only inside a step (srun): in a
# batch script SLURM_NTASKS describes the allocation, not this process.
RANK = ("HOROVOD_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
LOCAL_RANK = ("HOROVOD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID")
WORLD_SIZE = ("HOROVOD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
LOCAL_SIZE = ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")
# The processes above a worker: it must not train on without them (runtime/launcher_watch.py).
PROGRAMS = ("horovodrun", "mpirun", "mpiexec", "orterun", "orted", "prterun", "slurmstepd")
USE_PMIX = "use `srun --mpi=pmix` (`srun --mpi=list` shows others), or start with `horovodrun`"


def is_main_process(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is rank 0 of its launcher, or was started without one."""
    return all(env.get(name, "0") == "0" for name in RANK)


def is_first_on_host(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first worker on its host, or was started without a launcher."""
    return all(env.get(name, "0") == "0" for name in LOCAL_RANK)


def launcher_world_size(env: Mapping[str, str] = os.environ) -> tuple[str, int] | None:
    """(variable, number of workers) as the launcher set them; None without a launcher."""
    if "SLURM_STEP_ID" not in env:
        env = {name: value for name, value in env.items() if not name.startswith("SLURM_")}
    for name in WORLD_SIZE:
        if env.get(name, "").isdigit():
            return name, int(env[name])
    return None


def init_world(env: Mapping[str, str] = os.environ) -> World:
    """Join the workers that the launcher started. Raises UserError if their number is wrong."""
    expected, elastic = launcher_world_size(env), env.get("HOROVOD_ELASTIC") == "1"
    if expected is None or (expected[1] == 1 and not elastic):
        return World()
    name, count = expected
    promise = f"{name}={count} promises {count} workers, but"
    if name.startswith("SLURM_") and not any(key.startswith(("PMI_", "PMIX_")) for key in env):
        # Checked here because Open MPI would abort the process instead of raising an error.
        raise UserError(f"{promise} SLURM provides no PMI to connect them: {USE_PMIX}")
    try:
        from distsent.distributed import horovod
    except ImportError as error:
        fix = "install it with `make setup`, or run `python -m distsent.train` without a launcher"
        raise HostError(f"{promise} Horovod cannot be imported ({error}): {fix}") from None
    world = horovod.init(elastic)
    if not elastic and world.size != count:
        raise UserError(
            f"{promise} this process sees {world.size}: the launcher and Horovod's MPI do not fit "
            f"together; under SLURM {USE_PMIX}; `python -m distsent.doctor` checks more"
        )
    return world
