"""The result of a run as a table on the console."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("n", "loss", "accuracy", "precision", "recall", "f1", "f1_macro", "samples_per_second")


def table(result: Mapping[str, Any]) -> str:
    """Splits down, scores across."""
    rows = [["split", *(c.replace("samples_per_second", "examples/s") for c in COLUMNS)]]
    for split, scores in result["eval"].items():
        rows.append([split, *(_shown(column, scores[column]) for column in COLUMNS)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _shown(column: str, value: float) -> str:
    if column == "n":
        return f"{value:,}"
    return f"{value:.1f}" if column == "samples_per_second" else f"{value:.4f}"
