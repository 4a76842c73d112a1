"""A finished run's TensorBoard pages beside its curves.

Hyperparameters, final scores, confusion matrices, precision-recall curves, mistakes as text.
"""

from typing import Any

import numpy as np

from distsent.evaluation.tasks.single_label import softmax
from distsent.job.schema import KEYS, Key
from distsent.reporting import plots
from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun

SCORES = ("accuracy", "f1", "f1_macro", "precision", "recall", "loss", "samples_per_second")
NO_HPARAMS = ("run", "checkpoint", "log")  # sections that do not change what is learned
MAX_MISTAKES, MAX_CHARACTERS = 50, 1000


def write_summaries(run: FinishedRun) -> None:
    """Write all pages at the run's last step, into its folder of event files."""
    from torch.utils.tensorboard import SummaryWriter

    step = int(run.result["steps"])
    with SummaryWriter(str(run.folder.tensorboard)) as writer:
        for split, scores in run.result["eval"].items():
            for key in SCORES:
                writer.add_scalar(f"final/{split}/{key}", scores[key], step)
            if plots.available():
                image = _pixels(plots.plot_confusion(run, split, split))
                writer.add_image(f"confusion/{split}", image, step, dataformats="HWC")
            _add_pr_curves(writer, run, split, step)
            if mistakes := run.mistakes(split):
                writer.add_text(f"mistakes/{split}", _mistakes_table(mistakes), step)
        _add_calibration(writer, run, step)
        _add_hparams(writer, run)


def _add_calibration(writer: Any, run: FinishedRun, step: int) -> None:
    """Temperature, calibration errors, and the reliability diagram."""
    found = run.result.get("calibration") or {}
    for key in ("temperature", "ece_before", "ece_after"):
        if found.get(key) is not None:
            writer.add_scalar(f"final/calibration/{key}", found[key], step)
    if plots.available() and (figure := plots.plot_reliability(run)):
        writer.add_image(f"reliability/{found['split']}", _pixels(figure), step, dataformats="HWC")


def _add_hparams(writer: Any, run: FinishedRun) -> None:
    """The job as hyperparameters, in the run's own folder, so that runs can be compared.

    TensorBoard takes the columns and their types from one of the runs: all need the same ones.
    """
    from torch.utils.tensorboard.summary import hparams

    values: dict[str, Any] = {}
    for name, key in KEYS.items():
        section, _, short = name.partition(".")
        if section not in NO_HPARAMS:
            values[name] = _hparam(run.job[section].get(short), key)
    values["workers"] = float(run.result["world_size"])
    metrics = {f"final/{split}/{key}": 0.0 for split in ("validation", "test") for key in SCORES}
    for summary in hparams(values, metrics):
        writer.file_writer.add_summary(summary)


def _hparam(value: Any, key: Key) -> bool | str | float:
    """One type per column: numbers are floats; lists and keys that may be unset are text."""
    if key.unset or not isinstance(key.default, bool | int | float):
        return "unset" if value is None else str(value)
    return value if isinstance(value, bool) else float(value)


def _add_pr_curves(writer: Any, run: FinishedRun, split: str, step: int) -> None:
    """Of the second class for two classes, else of each class against the others."""
    predictions = run.predictions(split)
    if predictions is None:
        return
    scores = softmax(predictions.logits)
    for i in [1] if len(run.labels) == 2 else range(len(run.labels)):
        tag = f"{split}/{run.labels[i]}"
        writer.add_pr_curve(tag, predictions.labels == i, scores[:, i], step)


def _pixels(figure: Any) -> np.ndarray:
    """A figure as uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _mistakes_table(mistakes: list[dict[str, Any]]) -> str:
    rows = []
    for one in mistakes[:MAX_MISTAKES]:
        score, text = f"{one['score']:.3f}", one["text"][:MAX_CHARACTERS]
        rows.append([one["label"], one["predicted"], score, str(one["row"]), text])
    return markdown_table(["label", "predicted", "score", "row", "text"], rows)
