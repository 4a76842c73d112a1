"""Train, evaluate, save:  python -m distsent.train [JOB.toml] [section.key=value ...] [--check]

In one process, or on any number of workers: `horovodrun -np 4 python -m distsent.train
jobs/imdb.toml`, or the same with torchrun or srun (docs/launchers.md). Without a job it trains the
demo job. The same command again resumes an interrupted run, or reports that the run is finished.
"""

from contextlib import suppress
from pathlib import Path

from distsent import cli
from distsent.distributed.launchers import find_launch, init_world, is_main_process
from distsent.distributed.secrets import warn_of_visible_secrets
from distsent.distributed.world import World
from distsent.errors import FINISHED, Stopped, UserError
from distsent.job import Job, load_job_to_train
from distsent.runtime.heartbeat.starting import Starting, watch_start
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.runtime.signals import StopSignal, resumable

# Times run.stall_seconds for a transport that can tell who is missing. Signs of life tell more, and
# sooner, where all hosts see run.dir (runtime/heartbeat/starting.py).
PATIENCE = 15


def main(arguments: list[str]) -> int:
    parser = cli.Parser("train", __doc__)
    parser.add_job()
    about = "print the resolved job, or everything that is wrong with it, and exit"
    parser.add_argument("--check", action="store_true", help=about)
    options = parser.parse_intermixed_args(arguments)
    job = load_job_to_train(*parser.job_of(options.words))
    if options.check:
        print(job.to_toml(), end="")
        return FINISHED
    stop, starting = StopSignal(), watch(job)
    # These import torch, which takes seconds: only for a valid job.
    from distsent.reporting.comparison import format_seeds
    from distsent.training.session import TrainingRun, train_all

    warn_of_visible_secrets()
    world = join(job, starting, stop)
    with resumable(world, stop):
        runs = [TrainingRun(job.for_seed(seed), world, stop, starting) for seed in job.seeds]
        train_all(runs)
        if len(runs) > 1 and world.is_main:
            print(format_seeds([read_json(run.folder.result) for run in runs]))
    return FINISHED


def watch(job: Job) -> Starting | None:
    """The watch over the start. None if there is no launcher, or what it says is wrong."""
    with suppress(UserError):
        launch, run = find_launch(asked=job.run.transport), job.run
        return watch_start(run.dir, job.job.name, launch, run.stall_seconds)
    return None


def join(job: Job, starting: Starting | None, stop: StopSignal) -> World:
    """The workers that the launcher started.

    Raises UserError or Stopped, and leaves a record of it.
    """
    try:
        if starting is not None:
            starting.enter("rendezvous")
        run, patience = job.run, PATIENCE * job.run.stall_seconds
        return init_world(run.transport, run.interface, patience, lambda: stop.requested)
    except (UserError, Stopped) as error:
        if starting is not None:
            starting.finish()
        if is_main_process():
            first = job.for_seed(job.seeds[0]).job.name
            RunFolder(Path(job.run.dir) / first).write_refusal(error.code, str(error))
        raise


if __name__ == "__main__":
    cli.run(main)
