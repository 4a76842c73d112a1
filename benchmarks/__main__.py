"""Hold contests and write their tables:  python -m benchmarks [CONTEST ...] [--rounds N] [field=value ...]

distsent and what users would pick instead take turns over the same work, after a check that they compute the same. Rounds are added
to the comparison's record in --out; its table stands beside it. No contests: arithmetic, roof, exchange, growth, saves.
Without a name: all of them. DISTSENT_DATA: the folder of corpora.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from benchmarks import arithmetic, exchange, growth, matmul_peak, saves
from benchmarks.comparison import Unequal
from benchmarks.comparisons import CONTESTS
from benchmarks.table import table
from benchmarks.workload import Workload, override

RESULTS = Path(__file__).parent / "results"
REPORTS = {
    "arithmetic": arithmetic.report,
    "roof": matmul_peak.report,
    "exchange": exchange.report,
    "growth": growth.report,
    "saves": saves.report,
}


def main() -> int:
    options = parse()
    words = dict(word.split("=", 1) for word in options.words if "=" in word)
    for name in [word for word in options.words if "=" not in word] or [*CONTESTS, *REPORTS]:
        if name in REPORTS:
            (options.out / f"{name}.md").write_text(REPORTS[name]())
            continue
        comparison = replace(CONTESTS[name], work=override(CONTESTS[name].work, words))
        record = options.out / f"{name}.json"
        try:
            text = table(comparison.hold(options.rounds, record))
        except (
            Unequal,
            RuntimeError,
        ) as error:  # a rival may fail; distsent, whom all are held against, may not
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        record.with_suffix(".md").write_text(text)
        print(text, flush=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="CONTEST or field=value",
        help="contests: " + ", ".join([*CONTESTS, *REPORTS]),
    )
    parser.add_argument("--rounds", type=int, default=5, help="to add (5)")
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        help="folder of records and tables (benchmarks/results)",
    )
    options = parser.parse_intermixed_args()
    known = {field.name for field in fields(Workload)}
    wrong = [
        word
        for word in options.words
        if word.split("=", 1)[0] not in (known if "=" in word else {*CONTESTS, *REPORTS})
    ]
    if wrong:
        parser.error(
            f"{wrong[0]}: neither a comparison ({', '.join([*CONTESTS, *REPORTS])}) nor a field ({', '.join(sorted(known))})"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
