"""Pictures of finished runs, in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from distsent.errors import UserError
from distsent.reporting import plots
from distsent.reporting.finished_run import FinishedRun


def draw_pictures(runs: Sequence[FinishedRun], split: str, folder: str) -> Iterator[Path]:
    """The curves of all runs in one picture, a confusion matrix for each; yields the files."""
    place = Path(folder)
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield _saved(
            plots.plot_curves({run.name: (run.losses(), run.result["history"]) for run in runs}),
            place / "curves.png",
        )
        for run in runs:
            matrix = run.result["eval"][split]["confusion"]
            yield _saved(
                plots.plot_confusion(matrix, run.labels, f"{run.name}, {split}"),
                place / f"confusion-{run.name.strip('/.').replace('/', '-')}.png",
            )
    except OSError as error:
        raise UserError(f"--pictures: cannot write to {folder} ({error.strerror})") from None


def _saved(figure: Any, path: Path) -> Path:
    plots.save_figure(figure, path)
    return path
