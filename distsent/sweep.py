"""Search over jobs:  python -m distsent.sweep JOB.toml SPACE.toml [section.key=value ...]

SPACE.toml has the values of each key to search: `lr = { low = 1e-5, high = 1e-3, log = true }` or
`batch_size = [16, 32]`, and in [search] how: sampler, pruner, metric, trials, seed, folds. Each
trial is a run folder in RUN.DIR/JOB.NAME-sweep, trained by the ordinary command. Ends with a table,
the best job (best.toml) and a picture. The same command again resumes, or shows the table.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing, suppress

from distsent import cli
from distsent.distributed.launchers import find_launch
from distsent.errors import FAILED, FINISHED, UserError
from distsent.job.load import check_encoder, read_assignments, resolve
from distsent.runtime.run_folder import disk_errors_as_user_errors, write_text
from distsent.runtime.signals import StopSignal
from distsent.search.sampling import check_optuna
from distsent.search.settings import MOST_TRIALS
from distsent.search.space import read_space
from distsent.search.sweep_folder import Sweep, create_folder, open_sweep

MOST_AT_ONCE = 1024


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    base, errors = read_assignments(options.job, options.overrides)
    job = resolve(base, errors)
    space = read_space(options.space, base, job).with_trials(options.trials)
    check_encoder(job, {item.key for item in base} | {each.key for each in space.dimensions})
    sweep = Sweep(base, job, space, options.space)
    check_optuna()
    if (launch := find_launch()).size > 1:
        raise UserError(
            f"sweep starts workers itself (--np): start it alone, not with {launch.why}"
        )
    stop = StopSignal()
    run(sweep, options, stop)
    return FINISHED


def run(sweep: Sweep, options: argparse.Namespace, stop: StopSignal) -> None:
    """Train the trials that are left, then report."""
    from distsent.search.controller import Controller
    from distsent.search.machine import share_machine
    from distsent.search.start_status import start_status
    from distsent.search.sweep_log import SweepLog
    from distsent.search.trials import Claim

    folder, search = sweep.folder, sweep.space.search
    create_folder(sweep)
    # Before anything in the folder changes: another controller may be in the middle of its trials.
    alone = None if options.join else Claim.take(folder.path, stop.raise_if_requested)
    if alone is None and not options.join:
        fix = "wait for it, or add --join to train further trials of it on this machine as well"
        raise UserError(f"{folder.path}: another sweep works here right now; {fix}", code=FAILED)
    try:
        labels = open_sweep(sweep, stop.raise_if_requested, shared=options.join)
        slots, notes = share_machine(options.at_once, options.np)
        with disk_errors_as_user_errors(folder.path), start_status(folder.path):
            log = SweepLog(folder, search.trials, search.metric, search.lower_is_better)
            with closing(log):
                for note in filter(None, (sweep.space.untried, *notes)):
                    log.info(note)
                complete = Controller(sweep, labels, slots, options.np, stop, log).run()
    finally:
        if alone is not None:
            alone.release()
    if complete:
        report(sweep, options.format)
    else:
        print(f"{folder.path}: no trial is left to start; others train the last ones and report")


def report(sweep: Sweep, style: str) -> None:
    """Write trials.json, best.toml and the picture; print the table."""
    from distsent.reporting import figure
    from distsent.search.report import Report
    from distsent.search.trials import read_trials

    folder = sweep.folder
    found = Report.of(sweep, read_trials(folder.path, sweep.space.search.folds))
    with disk_errors_as_user_errors(folder.path):
        write_text(folder.trials, found.text("json"))
        if best := found.best_job():
            write_text(folder.best, best)
        if figure.available():
            figure.save_figure(found.picture(), folder.picture)
    print(found.text(style), end="")
    with suppress(OSError):
        for path in (folder.best, folder.picture):
            sys.stderr.write(f"{path}\n" if path.exists() else "")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("sweep", __doc__)
    about = "the job, the space, and keys that override those of the job"
    parser.add_argument("words", nargs="*", metavar="JOB.toml SPACE.toml", help=about)
    add = parser.add_argument
    add("--trials", type=int, metavar="N", help="trials, in place of [search] trials")
    add("--at-once", type=int, default=1, metavar="K", help="trials at once on this machine (1)")
    add("--np", type=int, default=1, metavar="N", help="workers of each trial (1)")
    add("--join", action="store_true", help="work on a sweep together with other machines")
    add("--format", choices=("markdown", "csv", "json"), default="markdown", help="of the table")
    options = parser.parse_intermixed_args(arguments)
    files = [word for word in options.words if "=" not in word]
    if len(files) != 2:
        parser.error(f"expected JOB.toml and SPACE.toml, found {' '.join(files)[:80] or 'neither'}")
    options.job, options.space = files
    options.overrides = [word for word in options.words if "=" in word]
    for name, most in (("trials", MOST_TRIALS), ("at_once", MOST_AT_ONCE), ("np", 4096)):
        value, option = getattr(options, name), name.replace("_", "-")
        if value is not None and not 1 <= value <= most:
            parser.error(f"--{option} {value}: expected 1 to {most:,}")
    return options


if __name__ == "__main__":
    cli.run(main)
