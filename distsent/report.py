"""Compare finished runs:  python -m distsent.report RUN [RUN ...]

One line per run; mean and standard deviation over runs that differ only by their seed; for each
further run, whether it differs from the first by more than chance (McNemar's exact test,
bootstrap), on the same rows. Shell patterns give many runs: runs/emotion-*
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from distsent import cli
from distsent.errors import FINISHED, UserError
from distsent.runtime.strict_json import strict_json

if TYPE_CHECKING:
    from distsent.reporting.finished_run import FinishedRun


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    # Imported late: a wrong command line is answered without waiting for numpy and others.
    from distsent.reporting import finished_run, model_card, plots, push, tensorboard

    runs = finished_run.read_runs(options.runs)
    if options.card:
        for run in runs:
            model_card.write_model_card(run)
            tensorboard.write_summaries(run)
            print(run.folder.card)
        return FINISHED
    if options.push:
        print(push.push_to_hub(runs[0], options.push, private=options.private))
        return FINISHED
    if options.pictures and not plots.available():
        raise UserError(f"--pictures: {plots.INSTALL_HINT}")
    runs = finished_run.with_distinct_names(runs)
    split = finished_run.common_split(runs, options.split)
    print(report(runs, split, options.format), end="")
    for path in plots.draw_pictures(runs, split, options.pictures) if options.pictures else ():
        print(path, file=sys.stderr)
    return FINISHED


def report(runs: Sequence[FinishedRun], split: str, style: str) -> str:
    """The comparison as markdown, csv or json; of one run, also its scores on all splits."""
    from distsent.reporting import comparison, confidence, pairwise, table

    results = [run.result for run in runs]
    records = [comparison.run_record(result, split) for result in results]
    spreads = comparison.seed_spreads(results, split)
    pairs = [pairwise.compare_runs(runs[0], run, split) for run in runs[1:]]
    if style == "json":
        values = {"split": split, "runs": records, "seeds": spreads, "pairs": pairs}
        values["confidence"] = [confidence.of_run(result) for result in results]
        return strict_json(values, indent=1) + "\n"
    if style == "csv":
        return comparison.format_csv(records, spreads)
    scores = f"{table.format_result_table(results[0])}\n\n" if len(runs) == 1 else ""
    runs_table = comparison.format_comparison(records, spreads)
    tests = pairwise.format_pairs(runs[0], pairs) + confidence.format_confidence(results)
    return f"{scores}Scores on the {split} split.\n\n{runs_table}{tests}"


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = cli.Parser("report", __doc__)
    add, formats, splits = parser.add_argument, ("markdown", "csv", "json"), ("validation", "test")
    add("runs", nargs="+", metavar="RUN", help="run folders")
    add("--split", choices=splits, help="default: test, if all runs have it")
    add("--format", choices=formats, default="markdown", help="default: markdown")
    add("--pictures", metavar="FOLDER", help="draw curves and confusion matrices into FOLDER")
    add("--card", action="store_true", help="rewrite model cards and TensorBoard pages")
    add("--push", metavar="ORG/NAME", help="upload the model folder of one run to the hub")
    add("--private", action="store_true", help="with --push: as a private repository")
    options = parser.parse_args(arguments)
    if options.private and not options.push:
        raise UserError("--private: goes with --push ORG/NAME")
    count = len(options.runs)
    if options.push and count > 1:
        raise UserError(f"--push {options.push}: one run becomes one repository; {count} are given")
    return options


if __name__ == "__main__":
    cli.run(main)
