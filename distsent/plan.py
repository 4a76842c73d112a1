"""How fast, how long and how much, before anyone reserves a machine:

    python -m distsent.plan JOB.toml [section.key=value ...] --workers 1,2,8,64,512

Counts what each worker of the job would do in a step, measures for a minute how fast this machine
does it (or takes --hardware, a name such as a100 or a file), and predicts the time of a step, the
hours of the run, and the number of workers beyond which more is waste. No run folder is touched;
the token store is written if it is missing, and training then uses it. docs/scaling.md explains
the model and its limits.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from distsent import cli
from distsent.distributed.launchers import find_launch
from distsent.errors import FINISHED, UserError
from distsent.job import load_job_to_train
from distsent.runtime.signals import GRACE, StopSignal

MOST = 100_000


def main(arguments: list[str]) -> int:
    parser, options = parse(arguments)
    job = load_job_to_train(*parser.job_of(options.words))
    asked = worker_counts(options.workers)
    if (launch := find_launch()).size > 1:
        raise UserError(f"plan starts workers itself: start it alone, not with {launch.why}")
    stop = StopSignal(GRACE)
    # Heavy imports, only for a valid command line
    from distsent.planning import show
    from distsent.planning.hardware import read_hardware
    from distsent.planning.planner import Planner

    if options.picture:
        show.check_picture(Path(options.picture))
    described = read_hardware(options.hardware) if options.hardware else None
    planner = Planner.open(job.for_seed(job.seeds[0]), asked, described, stop)
    predictions, hardware = [planner.predict(count) for count in asked], planner.hardware
    limit = planner.limit(asked)
    if options.json:
        print(json.dumps(show.to_json(predictions, hardware, limit, planner.noise), indent=2))
    else:
        print(show.to_table(predictions), end="")
        for note in planner.notes(predictions):
            print(note)
        if planner.noise is not None:
            sizes = planner.batch_sizes(asked[-1], planner.noise)
            print(show.sizes_to_table(sizes, asked[-1], planner.noise.exact), end="")
        print(show.worth_it(limit))
        print(f"advice: {planner.advice(asked, limit)}")
    if options.picture:
        show.draw(predictions, f"{job.job.name}: {hardware.name}", Path(options.picture))
        print(options.picture, file=sys.stderr)
    return FINISHED


def parse(arguments: list[str]) -> tuple[cli.Parser, argparse.Namespace]:
    parser = cli.Parser("plan", __doc__)
    parser.add_job()
    add = parser.add_argument
    add("--workers", default="1,2,4,8", metavar="1,2,8,64", help="numbers of workers (1,2,4,8)")
    add("--hardware", metavar="NAME|FILE", help="machines as described, instead of this one")
    add("--json", action="store_true", help="a list of objects, one per number of workers")
    add("--picture", metavar="FILE", help="write the curves to FILE (.png)")
    return parser, parser.parse_intermixed_args(arguments)


def worker_counts(text: str) -> list[int]:
    """The numbers in `text`, ascending, each once. Raises UserError."""
    counts = set()
    for word in text.split(","):
        word = word.strip()
        if not (word.isascii() and word.isdigit() and 1 <= int(word[:9]) <= MOST):
            problem = f"--workers {text[:80]}: {word[:80]!r}: expected whole numbers"
            raise UserError(f"{problem} from 1 to {MOST:,}, e.g. 1,2,8,64")
        counts.add(int(word))
    return sorted(counts)


if __name__ == "__main__":
    cli.run(main)
