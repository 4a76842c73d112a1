"""A plan for people and for programs: table, JSON, picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distsent import cli
from distsent.errors import UserError
from distsent.planning.critical_batch import NoiseScale
from distsent.planning.hardware import Hardware
from distsent.planning.step_time import Prediction
from distsent.reporting.figure import INSTALL_HINT, available, save_figure
from distsent.reporting.markdown import markdown_table
from distsent.runtime.log import duration

PARTS = "compute", "exchange", "update", "planning"
HEAD = (
    "workers", "machines", "ms per step", *PARTS, "examples/s", "tokens/s", "efficiency", "time",
    "GB each",
)  # fmt: skip


def to_json(
    predictions: Sequence[Prediction],
    hardware: Hardware,
    limit: int,
    noise: NoiseScale | None = None,
) -> list[dict[str, Any]]:
    """One object per number of workers."""
    return [
        {
            "workers": each.workers,
            "machines": each.machines,
            "step_seconds": each.time.seconds,
            "parts": {part: getattr(each.time, part) for part in PARTS},
            "samples_per_second": each.samples_per_second,
            "tokens_per_second": each.tokens_per_second,
            "efficiency": each.efficiency,
            "hours": each.hours,
            "cost": each.cost,
            "memory_bytes": each.memory,
            "workers_without_examples": each.idle,
            "worth_it": each.workers <= limit,
            "hardware": hardware.name,
            "measured": hardware.measured,
            "noise_scale": noise.examples if noise and noise.exact else None,
            "noise_scale_at_least": noise and noise.examples,
        }
        for each in predictions
    ]


def worth_it(limit: int) -> str:
    """The number of workers beyond which more is waste, as a line."""
    found = f"up to {limit:,} workers" if limit > 1 else "one worker"
    return f"worth it: {found}; each further one adds less than half of what the first do"


def to_table(predictions: Sequence[Prediction]) -> str:
    """Milliseconds of a step by part, and what follows from them."""
    priced = predictions[0].cost is not None
    rows = []
    for each in predictions:
        parts = (f"{1000 * getattr(each.time, part):.1f}" for part in PARTS)
        row = [f"{each.workers:,}", f"{each.machines:,}", f"{1000 * each.time.seconds:.1f}", *parts]
        row += [f"{each.samples_per_second:,.0f}", f"{each.tokens_per_second:,.0f}"]
        memory = "-" if each.memory is None else f"{each.memory / 1e9:.2f}"
        row += [f"{each.efficiency:.0%}", duration(3600 * each.hours), memory]
        rows.append([*row, f"{each.cost:,.2f}"] if each.cost is not None else row)
    return markdown_table([*HEAD, *(["cost"] if priced else [])], rows)


def sizes_to_table(rows: Sequence[Sequence[str]], workers: int, exact: bool) -> str:
    """Of `critical_batch.batch_sizes`: costs relative to those of the job's own batch."""
    head = ("batch", f"ms per step of {workers:,} workers", "steps", "examples", "time")
    most = "" if exact else ", at most"
    return f"\nto the same loss, relative to the first row{most}:\n{markdown_table(head, rows)}"


def check_picture(path: Path) -> None:
    """Raises UserError if no picture can be written there: before anything is measured."""
    if not available():
        raise UserError(f"--picture: {INSTALL_HINT}")
    cli.check_output("--picture", path)
    if path.suffix.lower() != ".png":
        raise UserError(f"--picture {path}: expected a file name that ends in .png")


def draw(predictions: Sequence[Prediction], title: str, path: Path) -> None:
    """Examples per second beside a straight line, and where the time of a step goes.

    Raises UserError if the picture cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    workers = [each.workers for each in predictions]
    speed = [each.samples_per_second for each in predictions]
    first = predictions[0].samples_per_second / predictions[0].efficiency / workers[0]
    left.plot(workers, speed, "o-", label="predicted")
    left.plot(workers, [first * count for count in workers], ":", color="gray", label="linear")
    left.set(xscale="log", yscale="log", xlabel="workers", title="examples per second")
    left.legend()
    names, below = [f"{count:,}" for count in workers], [0.0] * len(workers)
    for part in PARTS:
        heights = [1000 * getattr(each.time, part) for each in predictions]
        right.bar(names, heights, bottom=below, label=part)
        below = [sum(pair) for pair in zip(below, heights, strict=True)]
    right.set(xlabel="workers", title="ms per step")
    right.legend()
    figure.suptitle(title, fontsize="small")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, path)
    except (OSError, ValueError) as error:
        raise UserError(f"--picture {path}: cannot be written ({error})") from None
