"""Runs side by side: one record per run, and one per group of runs that differ only by the seed."""

import csv
import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from os.path import commonprefix
from typing import Any

from distsent.evaluation.tasks.choose import TASKS
from distsent.reporting.finished_run import task_of_result
from distsent.reporting.markdown import markdown_table, titles

Record = Mapping[str, Any]

SPEEDS = ("train_samples_per_second", "test_samples_per_second")
COLUMNS = {  # after those of the scores
    "test_samples_per_second": "test examples/s",
    "train_samples_per_second": "training examples/s", "parameters": "parameters",
    "trained": "trained", "memory_bytes": "memory", "workers": "workers", "steps": "steps",
    "seconds": "training",
}  # fmt: skip
# The scores of the table, of all tasks
COMPARED = (*dict.fromkeys(key for task in TASKS.values() for key in task.main), "loss")
# Keys that change nothing about what is trained: runs of one experiment may differ in them.
NOT_TRAINED = {"job.name", "run.dir", "run.resume", "run.stall_seconds", "train.seed", "data.store"}


def run_record(result: Record, split: str) -> dict[str, Any]:
    """What a run is, its scores on the split, its speed and size."""
    job, scores, train = result["job"], result["eval"][split], result["train"]
    model, adapter = str(job["model"]["name"]).rstrip("/").rpartition("/")[2], job["adapter"]
    if adapter["kind"] != "none":
        model += f" + {adapter['kind']}"
        model += f" on {adapter['bits']} bits" if adapter["bits"] else ""
    record = {"run": result["name"], "model": model, "split": split, "n": scores["n"]}
    record |= {key: scores[key] for key in task_of_result(result).ordered}
    record["test_samples_per_second"] = scores["samples_per_second"]
    record["train_samples_per_second"] = train["samples_per_second"]
    record["parameters"] = result["parameters"]["all"]
    record["trained"] = result["parameters"]["trained"]
    record["memory_bytes"] = train.get("peak_memory_bytes")
    record |= {"workers": result["world_size"], "steps": result["steps"]}
    record |= {"seconds": train["seconds"], "computed_in": result["precision"]}
    return {**record, "seed": job["train"]["seed"]}


def seed_spreads(results: Sequence[Record], split: str) -> list[dict[str, Any]]:
    """Means and sample standard deviations of scores and speeds, per experiment with many seeds."""
    groups: dict[str, list[Record]] = {}
    for result in results:
        groups.setdefault(_experiment(result), []).append(result)
    spreads = []
    for some in groups.values():
        records = [run_record(result, split) for result in some]
        seeds = sorted({record["seed"] for record in records})
        if len(seeds) < 2:
            continue
        measured = (*task_of_result(some[0]).ordered, *SPEEDS)
        columns = {key: [record[key] for record in records] for key in measured}
        name = _common_name([record["run"] for record in records])
        spreads.append({
            "run": f"{name} ({len(records)} seeds)",
            "model": records[0]["model"],
            "split": split,
            "seeds": seeds,
            "mean": {key: statistics.fmean(values) for key, values in columns.items()},
            "spread": {key: _deviation(values) for key, values in columns.items()},
        })  # fmt: skip
    return spreads


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; NaN if a value is, such as the correlation with a constant."""
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def _experiment(result: Record) -> str:
    """Equal for runs that differ only in their seed, name and place."""
    keys = [(f"{name}.{k}", v) for name, body in result["job"].items() for k, v in body.items()]
    trained = {key: value for key, value in keys if key not in NOT_TRAINED}
    return json.dumps([trained, result["world_size"]], sort_keys=True)


def _common_name(names: Sequence[str]) -> str:
    """The common prefix of the names of runs, without "seed" at its end."""
    prefix = commonprefix(names)  # noqa: RUF071 (by character)
    return prefix.removesuffix("seed").rstrip("-_.") or min(names)


def format_comparison(records: Sequence[Record], spreads: Sequence[Record]) -> str:
    """A markdown table of runs, then of groups of seeds as mean ± standard deviation."""
    scores = [key for key in COMPARED if any(key in record for record in records)]
    columns = ["run", "model", *scores, *COLUMNS]
    rows = [[_format_value(key, record.get(key)) for key in columns] for record in records]
    for group in spreads:
        means, spread = group["mean"], group["spread"]
        cells = {k: f"{_format_value(k, means[k])} ± {_format_value(k, spread[k])}" for k in means}
        rows.append([cells.get(key, str(group.get(key, ""))) for key in columns])
    return markdown_table(["run", "model", *titles(*scores), *COLUMNS.values()], rows)


def format_seeds(results: Sequence[Record]) -> str:
    """One job's runs under several seeds, with mean and spread, on the last split (test if any)."""
    split = list(results[0]["eval"])[-1]
    records = [run_record(result, split) for result in results]
    return format_comparison(records, seed_spreads(results, split))


def format_csv(records: Sequence[Record], spreads: Sequence[Record]) -> str:
    """One line per run, then two per group of seeds; the column `kind` is run, mean or spread."""
    out = io.StringIO()
    names = dict.fromkeys(key for record in records for key in record)  # runs may differ in task
    writer = csv.DictWriter(out, ["kind", *names], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"kind": "run", **record} for record in records)
    for group in spreads:
        shared = {key: group[key] for key in ("run", "model", "split")}
        writer.writerows({"kind": kind, **shared, **group[kind]} for kind in ("mean", "spread"))
    return out.getvalue()


def _format_value(key: str, value: Any) -> str:
    if value is None:
        return "-"
    if key in COMPARED:
        return f"{value:.4f}"
    if key in SPEEDS:
        return f"{value:,.1f}"
    if key in ("parameters", "trained") and value >= 1e5:
        return f"{value / 1e6:.2f} M"
    if key == "memory_bytes":
        return f"{value / 2**30:.2f} GiB"
    if key == "seconds":
        return f"{value:,.0f} s"
    return f"{value:,}" if isinstance(value, int) else str(value)
