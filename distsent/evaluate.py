"""Evaluate a saved model:  python -m distsent.evaluate RUN_OR_MODEL [section.key=value ...]

Exact scores as one JSON object on a line of standard output, with one process or with any number
of workers under horovodrun. A run is evaluated on the split of its own dataset;
data.source=./other.csv evaluates it on other data, which needs no training split.
"""

import argparse
import sys

from distsent import cli
from distsent.distributed.launchers import init_world
from distsent.distributed.secrets import warn_of_visible_secrets
from distsent.errors import FINISHED, Stopped, UserError
from distsent.runtime.heartbeat.monitor import HeartbeatMonitor, Watched
from distsent.runtime.signals import StopSignal, grace
from distsent.runtime.strict_json import strict_json

AGAIN = "run the same command again"


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    stop = StopSignal(grace())
    # Imported late: a wrong command line is answered without waiting for torch.
    from distsent.evaluation.offline import evaluate_saved_model, resolve_request

    request = resolve_request(options.model, options.overrides, options.split)
    warn_of_visible_secrets()
    world, run = init_world(stop=lambda: stop.requested), request.job.run
    watched = Watched(run.stall_seconds, "", None, lambda *_: None, say, f"no scores: {AGAIN}")
    heartbeat = HeartbeatMonitor(world, watched, stop)
    try:
        heartbeat.connect()
        with world.progress.phase("load"):
            scores = evaluate_saved_model(request, world, stop)
    except Stopped as error:
        raise Stopped(f"{error}; no scores: {AGAIN}") from None
    except BaseException as error:
        heartbeat.failed(error)
        raise
    finally:
        heartbeat.close()
        world.shutdown()
        stop.grace = None
    if world.is_main:
        print(strict_json(scores))
    return FINISHED


def say(line: str) -> None:
    print(f"distsent: {line}", file=sys.stderr, flush=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("evaluate", __doc__)
    parser.add_model("section.key=value")
    splits = ("train", "validation", "test")
    parser.add_argument("--split", default="test", choices=splits, help="default: test")
    options = parser.parse_intermixed_args(arguments)
    options.model, options.overrides = parser.model_of(options.words)
    for word in options.overrides:
        if "=" not in word:
            raise UserError(f"{word!r}: expected section.key=value, e.g. data.source=./test.csv")
    return options


if __name__ == "__main__":
    cli.run(main)
