"""Run comparisons and write their tables.

    python -m benchmarks [NAME ...] [--rounds N] [field=value ...]

A comparison runs distsent and its baselines in turn on the same workload. Before the first round it
checks that all systems compute the same results. Rounds are appended to the comparison's JSON
record in --out, by default the folder of this kind of CPU; the table is written next to it; so does
parity, with --rounds seeds in all.
Reports (arithmetic, matmul-peak, exchange, export, gpu, growth, heartbeats, memory, plan, saves)
take no rounds and no fields. Without a NAME, everything but `gpu` runs.
DISTSENT_DATA names the folder of datasets.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from benchmarks import (
    arithmetic,
    exchange,
    export,
    gpu,
    growth,
    heartbeats,
    matmul_peak,
    memory,
    parity,
    plan,
    saves,
)
from benchmarks.comparison import ResultsDiffer, cpu_kind
from benchmarks.comparisons import COMPARISONS
from benchmarks.table import format_table
from benchmarks.workload import Workload, override

RESULTS = Path(__file__).parent / "results"
REPORTS = {
    "arithmetic": arithmetic.report,
    "matmul-peak": matmul_peak.report,
    "exchange": exchange.report,
    "export": export.report,
    "gpu": gpu.report,
    "growth": growth.report,
    "heartbeats": heartbeats.report,
    "memory": memory.report,
    "plan": plan.report,
    "saves": saves.report,
}
NAMES = (*COMPARISONS, *REPORTS, "parity")
UNASKED = tuple(name for name in NAMES if name != "gpu")


def main() -> int:
    options = parse()
    assignments = dict(word.split("=", 1) for word in options.words if "=" in word)
    for name in [word for word in options.words if "=" not in word] or UNASKED:
        out = options.out or RESULTS / ("gpu" if name == "gpu" else cpu_kind())
        out.mkdir(parents=True, exist_ok=True)
        if name in REPORTS:
            (out / f"{name}.md").write_text(REPORTS[name]())
            continue
        if name == "parity":
            found = parity.report(options.rounds, out / "parity.json")
            (out / "parity.md").write_text(found)
            continue
        comparison = COMPARISONS[name]
        comparison = replace(comparison, work=override(comparison.work, assignments))
        record = out / f"{name}.json"
        try:
            table = format_table(comparison.measure(options.rounds, record))
        except (ResultsDiffer, RuntimeError) as error:
            # A failing baseline is recorded; distsent is the reference, so its failure is an error.
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        record.with_suffix(".md").write_text(table)
        print(table, flush=True)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = sorted(field.name for field in fields(Workload))
    parser.add_argument(
        "words",
        nargs="*",
        metavar="NAME or field=value",
        help=f"names: {', '.join(NAMES)}; fields of the workload: {', '.join(known)}",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="rounds to add, or seeds of parity (default: 5)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of records and tables (default: that of this kind of CPU, or of GPUs, in "
        "benchmarks/results)",
    )
    options = parser.parse_intermixed_args()
    for word in options.words:
        name, assigned, _ = word.partition("=")
        if name not in (known if assigned else NAMES):
            parser.error(
                f"{word}: neither a comparison ({', '.join(NAMES)}) nor a field "
                f"({', '.join(known)})"
            )
    return options


if __name__ == "__main__":
    sys.exit(main())
