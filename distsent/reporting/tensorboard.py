"""What TensorBoard shows of a finished run beside its curves: hparams, confusion matrices, PR curves, mistakes as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from distsent.evaluation.metrics import softmax
from distsent.job.schema import KEYS, Key
from distsent.reporting import plots
from distsent.reporting.comparison import markdown_table
from distsent.reporting.finished_run import FinishedRun

FINAL = ("accuracy", "f1", "f1_macro", "precision", "recall", "loss", "samples_per_second")
SILENT = ("run", "checkpoint", "log")  # sections that change nothing about what is learned
MISTAKES = 50
LONGEST = 1000  # characters of a text


def write_summaries(run: FinishedRun) -> None:
    """Write everything at the run's last step, into the folder of its curves."""
    from torch.utils.tensorboard import SummaryWriter

    step = int(run.result["steps"])
    with SummaryWriter(str(run.folder.tensorboard)) as writer:
        for split, scores in run.result["eval"].items():
            for key in FINAL:
                writer.add_scalar(f"final/{split}/{key}", scores[key], step)
            if plots.available():
                figure = plots.plot_confusion(scores["confusion"], run.labels, split)
                writer.add_image(f"confusion/{split}", _pixels(figure), step, dataformats="HWC")
            _curves(writer, run, split, step)
            if mistakes := run.mistakes(split):
                writer.add_text(f"mistakes/{split}", _as_table(mistakes), step)
        _hparams(writer, run)


def _hparams(writer: Any, run: FinishedRun) -> None:
    """The job as hyperparameters, into the run's own folder: runs of one parent folder then stand side by side.

    TensorBoard takes the columns, and their types, from any one run: all runs must tell of the same ones.
    """
    from torch.utils.tensorboard.summary import hparams

    asked: dict[str, Any] = {}
    for name, key in KEYS.items():
        section, _, short = name.partition(".")
        if section not in SILENT:
            asked[name] = _plain(run.job[section].get(short), key)
    asked["workers"] = float(run.result["world_size"])
    metrics = {f"final/{split}/{key}": 0.0 for split in ("validation", "test") for key in FINAL}
    for summary in hparams(asked, metrics):
        writer.file_writer.add_summary(summary)


def _plain(value: Any, key: Key) -> bool | str | float:
    """One type a column: every number a float, every list a text, and what may be unset or a word a text, too."""
    if key.unset or not isinstance(key.default, bool | int | float):
        return "unset" if value is None else str(value)
    return value if isinstance(value, bool) else float(value)


def _curves(writer: Any, run: FinishedRun, split: str, step: int) -> None:
    """Precision over recall: of the second class for two classes, else of each class against the rest."""
    kept = run.predictions(split)
    if kept is None:
        return
    scores = softmax(kept.logits)
    for index in [1] if len(run.labels) == 2 else range(len(run.labels)):
        writer.add_pr_curve(
            f"{split}/{run.labels[index]}", kept.labels == index, scores[:, index], step
        )


def _pixels(figure: Any) -> np.ndarray:
    """A figure as uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _as_table(mistakes: list[dict[str, Any]]) -> str:
    rows = [
        [
            one["label"],
            one["predicted"],
            f"{one['score']:.3f}",
            str(one["row"]),
            one["text"][:LONGEST],
        ]
        for one in mistakes[:MISTAKES]
    ]
    return markdown_table(["label", "predicted", "score", "row", "text"], rows)
