"""Run contests and write their table:  python -m benchmarks CORPUS MODEL [--pairs 5] [--precision bf16] [--out FILE]

CORPUS: a folder with train.parquet (and validation or test); MODEL: a saved encoder. Contestants take turns, round by round, so
that a noisy machine is unfair to nobody. Every ratio is taken within its round; medians and the range over rounds are reported.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contest import WARM, Work, distsent, horovod_style, trainer

SOFTWARE = ("torch", "transformers", "horovod")


def main() -> None:
    options = parse()
    work = Work(
        os.path.abspath(options.corpus), os.path.abspath(options.model), precision=options.precision, max_length=options.max_length,
        batch_size=options.batch_size, steps=options.steps, workers=options.workers,
    )  # fmt: skip
    contestants = {
        "distsent": distsent,
        "HF Trainer": trainer("random"),
        "HF Trainer, group_by_length": trainer("group_by_length"),
        **({f"Horovod example, padded to {options.pad}": horovod_style(options.pad)} if options.pad else {}),
    }
    results: dict[str, list[dict[str, Any] | str]] = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(options.pairs):
            for name, compete in contestants.items():
                folder = Path(scratch) / f"{turn}-{len(results[name])}-{list(contestants).index(name)}"
                try:
                    results[name].append(compete(work, folder))
                except RuntimeError as error:
                    results[name].append(str(error).strip().splitlines()[-1])
                last = results[name][-1]
                shown = last if isinstance(last, str) else f"{last['examples_per_second']:.1f} examples/s"
                print(f"round {turn + 1}: {name}: {shown}", flush=True)
    text = report(work, results)
    print(text)
    if options.out:
        Path(options.out).parent.mkdir(parents=True, exist_ok=True)
        Path(options.out).write_text(text)


def report(work: Work, results: dict[str, list[Any]]) -> str:
    """The table; what failed stays in it."""
    corpus, model = Path(work.corpus).name, Path(work.model).name
    lines = [
        f"# Training {corpus}, {work.precision}",
        "",
        " · ".join((str(datetime.date.today()), machine(), *(f"{name} {version(name)}" for name in SOFTWARE))),
        "",
        f"Encoder `{model}`, {work.workers} workers x {work.threads} thread, global batch {work.batch_size}, "
        f"at most {work.max_length} tokens, {work.steps} steps a run of which the first {WARM} are not timed, "
        f"{len(results['distsent'])} rounds, contestants in turn.",
        "",
        "| contestant | examples/s, median (range) | distsent is faster by, median (range) | memory a worker | bytes a step |",
        "|---|---|---|---|---|",
    ]
    ours = results["distsent"]
    for name, turns in results.items():
        pairs = [(a, b) for a, b in zip(ours, turns, strict=True) if isinstance(a, dict) and isinstance(b, dict)]
        if not pairs:
            lines.append(f"| {name} | failed: {turns[-1]} | | | |")
            continue
        speeds = [b["examples_per_second"] for _, b in pairs]
        ratios = [a["examples_per_second"] / b["examples_per_second"] for a, b in pairs]
        memory = statistics.median(b["memory_bytes"] for _, b in pairs) / 2**20
        wire = statistics.median(b["bytes_per_step"] for _, b in pairs) / 1e6
        failed = f", {len(turns) - len(pairs)} failed" if len(pairs) < len(turns) else ""
        lines.append(f"| {name}{failed} | {spread(speeds, 1)} | {spread(ratios, 2)} | {memory:.0f} MiB | {wire:.1f} MB |")
    return "\n".join(lines) + "\n"


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(os.sched_getaffinity(0))} cores"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("corpus")
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=5, help="rounds (5)")
    parser.add_argument("--precision", choices=("float32", "bf16"), default="bf16")
    parser.add_argument("--max-length", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64, help="over all workers (64)")
    parser.add_argument("--steps", type=int, default=30, help="of one run (30)")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pad", type=int, default=0, help="also run Horovod's example, rows padded to so many tokens")
    parser.add_argument("--out", help="file for the table")
    return parser.parse_args()


if __name__ == "__main__":
    main()
