"""Curves, and pictures of predictions. They need matplotlib, which is optional: see `figure.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distsent.errors import UserError
from distsent.evaluation.calibration import BINS, Reliability
from distsent.reporting.figure import INSTALL_HINT as INSTALL_HINT
from distsent.reporting.figure import available as available
from distsent.reporting.figure import save_figure
from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.markdown import titles
from distsent.reporting.tasks.choose import report_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_POINTS = 50  # longer curves of training losses are averaged down to this


def plot_curves(runs: Sequence[FinishedRun]) -> Figure:
    """The loss and the main score of the task over epochs."""
    from matplotlib.figure import Figure  # without pyplot: no window system, no state

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for i, run in enumerate(runs):
        color, prefix = f"C{i % 10}", f"{run.name}: " if len(runs) > 1 else ""
        steps, evaluations = run.training_steps(), run.result["history"]
        points = np.array([[step["epoch"], step["loss"]] for step in steps]).reshape(-1, 2)
        light = {"alpha": 0.3, "linewidth": 1, "label": f"{prefix}single batches"}
        left.plot(*average_points(points), color=color, **light)
        if not evaluations:
            continue
        split = evaluations[0]["split"]
        epochs = [record["epoch"] for record in evaluations]
        for axes, key in ((left, "loss"), (right, run.task.main[0])):
            if f"train_{key}" in evaluations[0]:
                training = [record[f"train_{key}"] for record in evaluations]
                axes.plot(epochs, training, ".:", color=color, label=f"{prefix}training")
            evaluated = [record[key] for record in evaluations]
            axes.plot(epochs, evaluated, "o-", color=color, label=f"{prefix}{split}")
    scores = titles(*dict.fromkeys(run.task.main[0] for run in runs))
    for axes, title in ((left, "loss"), (right, ", ".join(scores))):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        if axes.has_data():
            axes.legend(fontsize="small")
    return figure


def average_points(points_n2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of a curve; neighboring points are averaged if there are more than MAX_POINTS."""
    pieces = np.array_split(points_n2, min(len(points_n2), MAX_POINTS)) if len(points_n2) else []
    means = np.array([piece.mean(axis=0) for piece in pieces]).reshape(-1, 2)
    return means[:, 0], means[:, 1]


def plot_predictions(run: FinishedRun, split: str, title: str) -> Figure:
    """A split's predictions, in the picture of the run's task."""
    kept = run.predictions(split)
    logits, labels = (None, None) if kept is None else (kept.logits, kept.labels)
    scores = run.result["eval"][split]
    return report_of(run.task).picture(scores, logits, labels, title)


def has_reliability(run: FinishedRun) -> bool:
    """Whether the run has a temperature, and finite logits of the split it is measured on."""
    found = run.result.get("calibration")
    return bool(found and found["ece_before"] is not None and run.predictions(found["split"]))


def plot_reliability(run: FinishedRun) -> Figure | None:
    """Share of right labels in each bin of scores, before and after the temperature.

    Of several labels per text, of all of them together. None if the run has no temperature.
    """
    from matplotlib.figure import Figure

    if not has_reliability(run):
        return None
    found = run.result["calibration"]
    kept: Any = run.predictions(found["split"])
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    fitted = np.atleast_1d(found["temperature"])
    values = {"before": np.ones_like(fitted), "after": fitted}
    true, every = report_of(run.task).reliability
    for axes, (when, temperature) in zip(figure.subplots(1, 2), values.items(), strict=True):
        scores = run.task.confidences(kept.logits, kept.labels, temperature)
        bins = Reliability.of(*(x.ravel() for x in scores))
        where, accuracy, score, share = np.array(list(bins.bars())).T
        style: Any = {"width": 1 / BINS, "align": "edge", "edgecolor": "white"}
        axes.bar(where / BINS, accuracy, **style, label=true)
        axes.bar(where / BINS, share, **style, alpha=0.4, label=f"share of the {every}")
        axes.plot(score, accuracy, "k.", label="mean score")
        axes.plot([0, 1], [0, 1], ":", color="gray")
        error = found[f"ece_{when}"]
        ends = dict.fromkeys(f"{x:.3g}" for x in (temperature.min(), temperature.max()))
        axes.set(title=f"{when}: temperature {' to '.join(ends)}, ECE {error:.4f}")
        axes.set(xlabel=f"score ({found['split']})", xlim=(0, 1), ylim=(0, 1))
        axes.legend(fontsize="small", loc="upper left")
    return figure


def draw_pictures(runs: Sequence[FinishedRun], split: str, folder: str) -> Iterator[Path]:
    """Draw the curves of all runs together, and the predictions and the reliability of each.

    Yields the files.
    """
    figures = {"curves.png": plot_curves(runs)}
    for run in runs:
        name = run.name.strip("/.").replace("/", "-")
        picture = f"{report_of(run.task).picture_name}-{name}.png"
        figures[picture] = plot_predictions(run, split, f"{run.name}, {split}")
        if reliability := plot_reliability(run):
            figures[f"reliability-{name}.png"] = reliability
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            save_figure(figure, Path(folder) / name)
            yield Path(folder) / name
    except OSError as error:
        raise UserError(f"--pictures: cannot write to {folder} ({error.strerror})") from None
