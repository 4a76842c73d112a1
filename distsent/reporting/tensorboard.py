"""A finished run's TensorBoard pages beside its curves.

Hyperparameters, final scores, pictures of predictions, precision-recall curves, mistakes as text.
"""

from typing import Any

import numpy as np

from distsent.job.schema import KEYS, Key
from distsent.reporting import plots
from distsent.reporting.finished_run import FinishedRun
from distsent.reporting.markdown import markdown_table
from distsent.reporting.tasks.choose import report_of
from distsent.reporting.tasks.task_report import TaskReport

NO_HPARAMS = ("run", "checkpoint", "log")  # sections that do not change what is learned
MAX_MISTAKES, MAX_CHARACTERS = 50, 1000


def write_summaries(run: FinishedRun) -> None:
    """Write all pages at the run's last step, into its folder of event files."""
    from torch.utils.tensorboard import SummaryWriter

    step, report = int(run.result["steps"]), report_of(run.task)
    with SummaryWriter(str(run.folder.tensorboard)) as writer:
        for split, scores in run.result["eval"].items():
            for key in _measured(run):
                writer.add_scalar(f"final/{split}/{key}", scores[key], step)
            if plots.available():
                image, tag = _pixels(plots.plot_predictions(run, split, split)), report.picture_name
                writer.add_image(f"{tag}/{split}", image, step, dataformats="HWC")
            _add_pr_curves(writer, run, split, step)
            if mistakes := run.mistakes(split):
                writer.add_text(f"mistakes/{split}", _mistakes_table(mistakes, report), step)
        _add_calibration(writer, run, step)
        _add_hparams(writer, run)


def _add_calibration(writer: Any, run: FinishedRun, step: int) -> None:
    """Temperatures, calibration errors, scores with fitted thresholds, the reliability diagram."""
    found, thresholds = (run.result.get(key) or {} for key in ("calibration", "thresholds"))
    values = {key: found.get(key) for key in ("temperature", "ece_before", "ece_after")}
    if isinstance(several := values["temperature"], list):
        del values["temperature"]
        named = zip(run.labels, several, strict=True)
        values |= {f"temperature/{name}": value for name, value in named}
    for key, value in thresholds.items():
        if isinstance(value, float):
            values[f"best_f1_thresholds/{key}"] = value
    for key, value in values.items():
        if value is not None:
            writer.add_scalar(f"final/{found['split']}/{key}", value, step)
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
    values["workers"], keys = float(run.result["world_size"]), _measured(run)
    metrics = {f"final/{split}/{key}": 0.0 for split in ("validation", "test") for key in keys}
    for summary in hparams(values, metrics):
        writer.file_writer.add_summary(summary)


def _measured(run: FinishedRun) -> tuple[str, ...]:
    """The scores that are one number, and the speed."""
    return (*run.task.scalars, "samples_per_second")


def _hparam(value: Any, key: Key) -> bool | str | float:
    """One type per column: numbers are floats; lists and keys that may be unset are text."""
    if key.unset or not isinstance(key.default, bool | int | float):
        return "unset" if value is None else str(value)
    return value if isinstance(value, bool) else float(value)


def _add_pr_curves(writer: Any, run: FinishedRun, split: str, step: int) -> None:
    kept = run.predictions(split)
    if kept is not None:
        curves = report_of(run.task).precision_recall(kept.logits, kept.labels)
        for name, truth, scores in curves:
            writer.add_pr_curve(f"{split}/{name}", truth, scores, step)


def _pixels(figure: Any) -> np.ndarray:
    """A figure as uint8 [height, width, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def _mistakes_table(mistakes: list[dict[str, Any]], report: TaskReport) -> str:
    columns = report.mistake_columns
    # Runs of older versions name no files
    rows = [[_cell(one.get(key, "")) for key in columns] for one in mistakes[:MAX_MISTAKES]]
    return markdown_table(columns, rows)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(one)}" for name, one in value.items())
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:MAX_CHARACTERS]
