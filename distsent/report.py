"""Compare finished runs:  python -m distsent.report RUN [RUN ...] [--format markdown|csv|json] [--pictures FOLDER]

A line a run, mean and spread over runs that differ by their seed alone, and for each further run whether it differs from the first
by more than luck (McNemar's exact test, bootstrap), on the rows of the same split. Shell patterns name many: runs/emotion-*
One run can be described anew (--card) and shipped: --push ORG/NAME uploads its model folder to the Hugging Face hub.
"""

from __future__ import annotations

import argparse
import json
import sys

from distsent import cli
from distsent.errors import FINISHED, UserError


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    from distsent.reporting import (
        comparison,
        finished_run,
        gallery,
        model_card,
        pairwise,
        plots,
        push,
        tensorboard,
    )

    runs = finished_run.read_runs(options.runs)
    if options.card:
        for run in runs:
            model_card.write_model_card(run)
            tensorboard.write_summaries(run)
            print(run.folder.model / "README.md")
    elif options.push:
        print(push.push_to_hub(runs[0], options.push, private=options.private))
    else:
        if options.pictures and not plots.available():
            raise UserError(f"--pictures: {plots.NEEDED}")
        split = finished_run.common_split(runs, options.split)
        records = [comparison.run_record(run.result, split) for run in runs]
        groups = comparison.seed_spreads([run.result for run in runs], split)
        pairs = [pairwise.compare_runs(runs[0], run, split) for run in runs[1:]]
        if options.format == "json":
            print(
                json.dumps(
                    {"split": split, "runs": records, "seeds": groups, "pairs": pairs},
                    ensure_ascii=False,
                    indent=1,
                )
            )
        elif options.format == "csv":
            print(comparison.format_csv(records, groups), end="")
        else:
            print(
                f"Scores on the {split} split.\n\n{comparison.format_comparison(records, groups)}{pairwise.format_pairs(pairs)}",
                end="",
            )
        for path in (
            gallery.draw_pictures(runs, split, options.pictures) if options.pictures else ()
        ):
            print(path, file=sys.stderr)
    return FINISHED


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("report", __doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    parser.add_argument(
        "--split",
        choices=("validation", "test"),
        help="scores of this split (test, where all runs have one)",
    )
    parser.add_argument(
        "--format",
        choices=("markdown", "csv", "json"),
        default="markdown",
        help="how to print it (markdown)",
    )
    parser.add_argument(
        "--pictures",
        metavar="FOLDER",
        help="also draw curves and confusion matrices, into this folder",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="write model card and TensorBoard pages of the runs anew",
    )
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload the model folder of one run to the hub"
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push: as a private repository"
    )
    options = parser.parse_args(arguments)
    if options.private and not options.push:
        raise UserError("--private: goes with --push ORG/NAME")
    if options.push and len(options.runs) > 1:
        raise UserError(
            f"--push {options.push}: one run becomes one repository; {len(options.runs)} are given"
        )
    return options


if __name__ == "__main__":
    cli.run(main)
