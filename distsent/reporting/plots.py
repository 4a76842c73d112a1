"""Curves and confusion matrices as pictures. Needs matplotlib, which is an extra: ask `available` first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NEEDED = "pictures need matplotlib; pip install 'distsent[plots]'"
SMOOTH = 50  # points that a long curve of training losses is averaged to


def available() -> bool:
    return find_spec("matplotlib") is not None


def plot_curves(
    runs: Mapping[str, tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]],
) -> Figure:
    """Losses and accuracies over epochs. `runs`: name -> (logged steps, evaluations)."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no state

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for place, (name, (steps, evaluations)) in enumerate(runs.items()):
        colour, prefix = f"C{place % 10}", f"{name}: " if len(runs) > 1 else ""
        epochs, losses = smooth(
            np.array([[step["epoch"], step["loss"]] for step in steps]).reshape(-1, 2)
        )
        left.plot(
            epochs, losses, color=colour, alpha=0.3, linewidth=1, label=f"{prefix}single batches"
        )
        if evaluations:
            split = evaluations[0]["split"]
            at = [record["epoch"] for record in evaluations]
            left.plot(
                at,
                [record["train_loss"] for record in evaluations],
                ".:",
                color=colour,
                label=f"{prefix}training",
            )
            left.plot(
                at,
                [record["loss"] for record in evaluations],
                "o-",
                color=colour,
                label=f"{prefix}{split}",
            )
            right.plot(
                at,
                [record["train_accuracy"] for record in evaluations],
                ".:",
                color=colour,
                label=f"{prefix}training",
            )
            right.plot(
                at,
                [record["accuracy"] for record in evaluations],
                "o-",
                color=colour,
                label=f"{prefix}{split}",
            )
    for axes, title in ((left, "loss"), (right, "accuracy")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small") if axes.has_data() else None
    return figure


def smooth(points_n2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of a curve, stretches of neighbours averaged where there are more points than a picture shows."""
    pieces = np.array_split(points_n2, min(len(points_n2), SMOOTH)) if len(points_n2) else []
    means = np.array([piece.mean(axis=0) for piece in pieces]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def plot_confusion(
    matrix: Sequence[Sequence[int]], names: Sequence[str], title: str = ""
) -> Figure:
    """Rows: true classes; columns: predicted; the shade is the share of the true class."""
    from matplotlib.figure import Figure

    cells = np.asarray(matrix)
    shares = cells / np.maximum(1, cells.sum(axis=1, keepdims=True))
    side = min(16.0, 2.5 + 0.8 * len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(title=title, xlabel="predicted", ylabel="true")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(names)), names)
    if len(names) <= 20:
        for row, column in np.ndindex(*cells.shape):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(
                column,
                row,
                f"{cells[row, column]:,}",
                ha="center",
                va="center",
                color=colour,
                fontsize="small",
            )
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=110, metadata={"Software": None})
