"""Train, evaluate, save:  python -m distsent.train [JOB.toml] [section.key=value ...] [--check]

Alone, or on any number of workers: `horovodrun -np 4 python -m distsent.train jobs/imdb.toml`. Without a job: the demo job.
The same command again carries on where an interrupted run stopped, or says that the run is finished.
"""

from __future__ import annotations

import argparse

from distsent import cli
from distsent.distributed.launchers import init_world
from distsent.errors import FINISHED
from distsent.job import load_job
from distsent.runtime.signals import StopSignal


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    asked = load_job(options.job, options.overrides)
    if options.check:
        print(asked.to_toml(), end="")
        return FINISHED
    stop = StopSignal()
    from distsent.reporting.comparison import format_seeds
    from distsent.runtime.run_folder import read_json
    from distsent.training.session import (
        TrainingSession,  # torch and all that: only for a job that is right
    )

    world = init_world()
    try:
        runs = [TrainingSession(asked.for_seed(seed), world, stop) for seed in asked.seeds]
        for run in runs:
            run.train()
        if len(runs) > 1 and world.is_main:
            print(format_seeds([read_json(run.folder.result) for run in runs]))
    finally:
        world.shutdown()
    return FINISHED


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("train", __doc__)
    parser.add_job()
    parser.add_argument(
        "--check",
        action="store_true",
        help="print the resolved job, or all that is wrong with it; train nothing",
    )
    options = parser.parse_intermixed_args(arguments)
    options.job, options.overrides = parser.job_of(options.words)
    return options


if __name__ == "__main__":
    cli.run(main)
