"""Train, evaluate, save:  python -m distsent.train [JOB.toml] [section.key=value ...] [--check]

In one process, or on any number of workers: `horovodrun -np 4 python -m distsent.train
jobs/imdb.toml`, or the same with torchrun or srun (docs/launchers.md). Without a job it trains the
demo job. The same command again resumes an interrupted run, or reports that the run is finished.
"""

from pathlib import Path

from distsent import cli
from distsent.distributed.launchers import init_world, is_main_process
from distsent.distributed.secrets import warn_of_visible_secrets
from distsent.distributed.world import World
from distsent.errors import FINISHED, Stopped, UserError
from distsent.job import Job, load_job
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.runtime.signals import StopSignal


def main(arguments: list[str]) -> int:
    parser = cli.Parser("train", __doc__)
    parser.add_job()
    about = "print the resolved job, or everything that is wrong with it, and exit"
    parser.add_argument("--check", action="store_true", help=about)
    options = parser.parse_intermixed_args(arguments)
    job = load_job(*parser.job_of(options.words))
    if options.check:
        print(job.to_toml(), end="")
        return FINISHED
    stop = StopSignal()
    # These import torch, which takes seconds: only for a valid job.
    from distsent.reporting.comparison import format_seeds
    from distsent.training.session import TrainingRun

    warn_of_visible_secrets()
    world = join(job)
    try:
        runs = [TrainingRun(job.for_seed(seed), world, stop) for seed in job.seeds]
        for run in runs:
            run.train()
        if len(runs) > 1 and world.is_main:
            print(format_seeds([read_json(run.folder.result) for run in runs]))
    except Stopped as error:
        raise Stopped(f"{error}; run the same command again to resume") from None
    finally:
        world.shutdown()
        stop.ignore_further()
    return FINISHED


def join(job: Job) -> World:
    """The workers that the launcher started. Raises UserError, and leaves a record of it."""
    try:
        return init_world(job.run.transport, job.run.interface, 10 * job.run.stall_seconds)
    except UserError as error:
        if is_main_process():
            first = job.for_seed(job.seeds[0]).job.name
            RunFolder(Path(job.run.dir) / first).write_refusal(error.code, str(error))
        raise


if __name__ == "__main__":
    cli.run(main)
