"""A comparison's record as a Markdown table: medians and ranges over rounds, and failures."""

from __future__ import annotations

import statistics
from typing import Any

# heading: (key of a system's result, format, unit); a column without values is left out
OPTIONAL = {
    "real tokens/s": ("tokens_per_second", "{:.0f}", 1),
    "memory per worker": ("memory_bytes", "{:.0f} MiB", 2**20),
    "sent per worker and step": ("bytes_per_step", "{:.1f} MB", 1e6),
    "time to first step": ("first_step", "{:.1f} s", 1),
}


def format_table(record: dict[str, Any]) -> str:
    rounds = [turn["results"] for turn in record["rounds"]]
    reference, *_ = names = list(rounds[0])
    dates = sorted({turn["date"] for turn in record["rounds"]})
    columns = {
        heading: column
        for heading, column in OPTIONAL.items()
        if any(result.get(column[0]) for results in rounds for result in results.values())
    }
    period = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    software = " ".join(f"{name} {number}" for name, number in record["software"].items())
    lines = [
        f"# {record['title']}",
        "",
        f"{period} · {record['machine']} · {software}",
        "",
        f"{len(rounds)} rounds, systems in turn. {describe(record['work'])} "
        "Median (lowest - highest); speedups are taken within a round.",
        "",
        f"| system | examples/s | speedup of {reference} | {' | '.join(columns)} |",
        f"|{'---|' * (3 + len(columns))}",
        *(format_row(name, reference, rounds, list(columns.values())) for name in names),
        "",
        *(f"- {name}: {outcome}" for name, outcome in record.get("check", {}).items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def format_row(
    name: str, reference: str, rounds: list[dict[str, Any]], columns: list[tuple[str, str, float]]
) -> str:
    pairs = [(results[reference], results[name]) for results in rounds]
    good = [(a, b) for a, b in pairs if "failed" not in a and "failed" not in b]
    failed = [b["failed"] for _, b in pairs if "failed" in b]
    if not good:
        why = failed[-1] if failed else f"{reference} did"
        return f"| {name} | failed: {why} |{' |' * (1 + len(columns))}"
    speeds = [b["examples_per_second"] for _, b in good]
    ratios = [a["examples_per_second"] / b["examples_per_second"] for a, b in good]
    cells = [spread(speeds, 1), "" if name == reference else spread(ratios, 2)]
    for key, text, unit in columns:
        values = [b.get(key) for _, b in good]
        known = all(value is not None for value in values)
        cells.append(text.format(statistics.median(values) / unit) if known else "")
    note = f" ({len(failed)} rounds failed)" if failed else ""
    return f"| {name}{note} | {' | '.join(cells)} |"


def describe(work: dict[str, Any]) -> str:
    common = (
        f"Encoder {work['encoder']}, {work['precision']}, at most {work['max_length']} tokens, "
        f"{work['workers']} workers x {work['threads']} thread"
    )
    if work["task"] == "score":
        batches = f"batches of {work['batch_size']} where the batch size is counted in rows"
        return f"{common}, {work['rows']} rows, {batches}; startup is not timed."
    untimed = f"startup and the first {work['warmup']} steps are not timed"
    return f"{common}, batch {work['batch_size']}, {work['steps']} steps per run; {untimed}."


def spread(values: list[float], digits: int) -> str:
    """Median (lowest - highest)."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"
