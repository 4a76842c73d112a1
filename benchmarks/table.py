"""A contest's record as a table in markdown: medians, and the range over rounds. What failed stays in it."""

from __future__ import annotations

import statistics
from typing import Any

SMALL = {  # heading: (what a contestant calls it, how it is shown, its unit); a column that nobody fills is left out
    "real tokens/s": ("tokens_per_second", "{:.0f}", 1),
    "memory of a worker": ("memory_bytes", "{:.0f} MiB", 2**20),
    "sent by a worker a step": ("bytes_per_step", "{:.1f} MB", 1e6),
    "start to first step": ("first_step", "{:.1f} s", 1),
}


def table(record: dict[str, Any]) -> str:
    rounds = record["rounds"]
    first, *_ = names = list(rounds[0]["results"])
    dates = sorted({turn["date"] for turn in rounds})
    columns = {
        head: cell
        for head, cell in SMALL.items()
        if any(result.get(cell[0]) for turn in rounds for result in turn["results"].values())
    }
    lines = [
        f"# {record['title']}",
        "",
        f"{dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'} · {record['machine']} · "
        + " ".join(f"{name} {number}" for name, number in record["software"].items()),
        "",
        f"{len(rounds)} rounds, contestants in turn. {setting(record['work'])} "
        "Median (lowest - highest); ratios are taken within a round.",
        "",
        f"| contestant | examples/s | {first} is faster by | {' | '.join(columns)} |",
        f"|{'---|' * (3 + len(columns))}",
    ]
    for name in names:
        pairs = [(turn["results"][first], turn["results"][name]) for turn in rounds]
        good = [(a, b) for a, b in pairs if "failed" not in a and "failed" not in b]
        failed = [b["failed"] for _, b in pairs if "failed" in b]
        if not good:
            lines.append(
                f"| {name} | failed: {failed[-1] if failed else 'the other one did'} |{' |' * (1 + len(columns))}"
            )
            continue
        ratios = [a["examples_per_second"] / b["examples_per_second"] for a, b in good]
        cells = [
            spread([b["examples_per_second"] for _, b in good], 1),
            "" if name == first else spread(ratios, 2),
            *(
                middle([b.get(key) for _, b in good], text, unit)
                for key, text, unit in columns.values()
            ),
        ]
        lines.append(
            f"| {name}{f' ({len(failed)} rounds failed)' if failed else ''} | {' | '.join(cells)} |"
        )
    checks = [f"- {name}: {said}" for name, said in record.get("check", {}).items()]
    return "\n".join([*lines, "", *checks]).rstrip() + "\n"


def setting(work: dict[str, Any]) -> str:
    hands = f"{work['workers']} workers x {work['threads']} thread"
    common = f"BatchTokenizer {work['encoder']}, {work['precision']}, at most {work['max_length']} tokens, {hands}"
    if work["task"] == "score":
        return f"{common}, {work['rows']} rows, batches of {work['batch_size']} where they are counted in rows; start-up is not timed."
    timed = (
        f"{work['steps']} steps a run, the first {work['warm']} of them not timed, nor is start-up"
    )
    return f"{common}, batch {work['batch_size']}, {timed}."


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def middle(values: list[Any], text: str, unit: float) -> str:
    return (
        text.format(statistics.median(values) / unit)
        if all(value is not None for value in values)
        else ""
    )
