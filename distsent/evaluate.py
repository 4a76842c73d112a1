"""Score a saved model:  python -m distsent.evaluate RUN_OR_MODEL [section.key=value ...] [--split NAME]

Exact scores as one JSON object, a line of standard output: alone, or on any number of workers under horovodrun. A run is scored on
the split of its own corpus; data.source=./other.csv scores it on a file or corpus that it has never seen, which needs no training
part.
"""

from __future__ import annotations

import argparse
import json

from distsent import cli
from distsent.distributed.launchers import init_world
from distsent.errors import FINISHED, UserError


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    from distsent.evaluation.offline import (  # torch and all that: only for a command line that is right
        evaluate_saved_model,
        resolve_request,
    )

    asked = resolve_request(options.model, options.overrides, options.split)
    world = init_world()
    try:
        scores = evaluate_saved_model(asked, world)
    finally:
        world.shutdown()
    if world.is_main:
        print(json.dumps(scores, ensure_ascii=False))
    return FINISHED


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("evaluate", __doc__)
    parser.add_model("section.key=value")
    parser.add_argument(
        "--split",
        default="test",
        choices=("train", "validation", "test"),
        help="what to score it on (test)",
    )
    options = parser.parse_intermixed_args(arguments)
    options.model, options.overrides = parser.model_of(options.words)
    for word in options.overrides:
        if "=" not in word:
            raise UserError(f"{word!r}: expected section.key=value, e.g. data.source=./test.csv")
    return options


if __name__ == "__main__":
    cli.run(main)
