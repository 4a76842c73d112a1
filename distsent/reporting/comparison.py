"""Runs side by side: one record a run, and one over the seeds of runs that differ by nothing else."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

SCORES = ("accuracy", "f1", "f1_macro", "precision", "recall", "loss")
SPEEDS = ("train_samples_per_second", "test_samples_per_second")
HEADINGS = {
    "run": "run", "model": "model", "accuracy": "accuracy", "f1": "F1", "f1_macro": "F1 macro", "loss": "loss",
    "test_samples_per_second": "test examples/s", "train_samples_per_second": "training examples/s",
    "parameters": "parameters", "trained": "trained", "memory_bytes": "memory", "workers": "workers", "steps": "steps",
    "seconds": "training",
}  # fmt: skip
# What tells runs of one experiment apart: names, places and seeds, not what is trained.
ASIDE = {
    ("job", "name"),
    ("run", "dir"),
    ("run", "resume"),
    ("run", "stall_seconds"),
    ("train", "seed"),
    ("data", "store"),
}


def run_record(result: Mapping[str, Any], split: str) -> dict[str, Any]:
    """A run's line: what it is, its scores on the split, its speed and size."""
    job, scores, train = result["job"], result["eval"][split], result["train"]
    model = str(job["model"]["name"]).rstrip("/").rpartition("/")[2]
    adapter = job["adapter"]
    if adapter["kind"] != "none":
        model += f" + {adapter['kind']}" + (
            f" on {adapter['bits']} bits" if adapter["bits"] else ""
        )
    return {
        "run": result["name"], "model": model, "split": split, "n": scores["n"], **{key: scores[key] for key in SCORES},
        "test_samples_per_second": scores["samples_per_second"], "train_samples_per_second": train["samples_per_second"],
        "parameters": result["parameters"]["all"], "trained": result["parameters"]["trained"],
        "memory_bytes": train.get("peak_memory_bytes"), "workers": result["world_size"], "steps": result["steps"],
        "seconds": train["seconds"], "computed_in": result["precision"], "seed": job["train"]["seed"],
    }  # fmt: skip


def seed_spreads(results: Sequence[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
    """For each experiment with several seeds: means and standard deviations (of a sample) of scores and speeds."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault(_experiment(result), []).append(result)
    out = []
    for group in groups.values():
        seeds = sorted({result["job"]["train"]["seed"] for result in group})
        if len(seeds) < 2:
            continue
        records = [run_record(result, split) for result in group]
        columns = {key: [one[key] for one in records] for key in (*SCORES, *SPEEDS)}
        out.append({
            "run": f"{_common([one['run'] for one in records])} ({len(group)} seeds)", "model": records[0]["model"], "split": split,
            "seeds": seeds, "mean": {key: statistics.fmean(values) for key, values in columns.items()},
            "spread": {key: statistics.stdev(values) for key, values in columns.items()},
        })  # fmt: skip
    return out


def _experiment(result: Mapping[str, Any]) -> str:
    kept = {
        section: {key: value for key, value in body.items() if (section, key) not in ASIDE}
        for section, body in result["job"].items()
    }
    return json.dumps([kept, result["world_size"]], sort_keys=True)


def _common(names: Sequence[str]) -> str:
    """What the names of runs have in common, less the word before the seed."""
    first, last = min(names), max(names)
    length = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b),
        min(len(first), len(last)),
    )
    return first[:length].removesuffix("seed").rstrip("-_.") or first


def format_comparison(
    records: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]
) -> str:
    """The table as people read it; groups as mean ± spread."""
    rows = [[_shown(key, one[key]) for key in HEADINGS] for one in records]
    for group in groups:
        means, spread = group["mean"], group["spread"]
        cells = {key: f"{_shown(key, means[key])} ± {_shown(key, spread[key])}" for key in means}
        rows.append([cells.get(key, str(group.get(key, ""))) for key in HEADINGS])
    return markdown_table(list(HEADINGS.values()), rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, columns aligned; all but the first two to the right."""
    safe = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in (head, *rows)]
    widths = [max(3, *(len(row[i]) for row in safe)) for i in range(len(head))]
    rule = ["-" * width if i < 2 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        "| "
        + " | ".join(
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (safe[0], rule, *safe[1:])
    ]
    return "\n".join(lines) + "\n"


def format_seeds(results: Sequence[Mapping[str, Any]]) -> str:
    """The runs of one job under several seeds, and their mean and spread, on its last split (test, where there is one)."""
    split = list(results[0]["eval"])[-1]
    return format_comparison(
        [run_record(result, split) for result in results], seed_spreads(results, split)
    )


def format_csv(records: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> str:
    """csv: a line a run, then two for each group, means and spreads; `kind` tells them apart."""
    out = io.StringIO()
    writer = csv.DictWriter(out, ["kind", *records[0]], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"kind": "run", **one} for one in records)
    for group in groups:
        same = {key: group[key] for key in ("run", "model", "split")}
        writer.writerows({"kind": kind, **same, **group[kind]} for kind in ("mean", "spread"))
    return out.getvalue()


def _shown(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in SCORES:
        return f"{value:.4f}"
    if key in SPEEDS:
        return f"{value:,.1f}"
    if key in ("parameters", "trained"):
        return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,}"
    if key == "memory_bytes":
        return f"{value / 2**30:.2f} GiB"
    if key == "seconds":
        return f"{value:,.0f} s"
    return f"{value:,}" if isinstance(value, int) else str(value)
