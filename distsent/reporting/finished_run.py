"""A finished run, read from its folder, for reports, model cards and TensorBoard pages."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from distsent.errors import UserError
from distsent.evaluation.tasks.choose import choose_task
from distsent.evaluation.tasks.task import Task
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.runtime.run_status import read_status
from distsent.storage import is_file


def task_of_result(result: Mapping[str, Any]) -> Task:
    """The task of a run, from the content of its result.json."""
    return choose_task(result["job"]["data"].get("task", "single_label"), result["labels"])


@dataclass(frozen=True)
class Predictions:
    """Logits float32 [n, C], row numbers int64 [n], and the task's labels of a split."""

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The predicted class of each row, of one label per text."""
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class FinishedRun:
    """`result`: the content of result.json."""

    folder: RunFolder
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.result["name"])

    @property
    def labels(self) -> list[str]:
        return list(self.result["labels"])

    @property
    def task(self) -> Task:
        return task_of_result(self.result)

    @property
    def job(self) -> dict[str, Any]:
        return dict(self.result["job"])

    def texts(self, split: str) -> str | None:
        """The hash of the texts of a split that it has scored. None for runs of older versions."""
        found: str | None = self.result.get("texts", {}).get(split)
        return found

    def predictions(self, split: str) -> Predictions | None:
        """The model's logits on a split. None if the run has no such file."""
        from safetensors.numpy import load_file

        path = self.folder.predictions / f"{split}.safetensors"
        return Predictions(**load_file(path)) if is_file(path) else None

    def mistakes(self, split: str) -> list[dict[str, Any]]:
        """The worst mistakes on a split, the most confident first."""
        return _read_lines(self.folder.predictions / f"{split}.mistakes.jsonl")

    def training_steps(self) -> list[dict[str, Any]]:
        """The logged training steps."""
        return [record for record in _read_lines(self.folder.metrics) if "lr" in record]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, none if it is missing."""
    if not is_file(path):
        return []
    # Texts may have characters, such as U+2028, at which `splitlines` would cut a line
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def read_run(path: str | Path) -> FinishedRun:
    """The run in the folder `path`. Raises UserError if it is not a run or not finished."""
    folder = RunFolder(path)
    if not is_file(folder.job) and not is_file(folder.result):
        raise UserError(f"{path}: not a run folder (it has no job.json); give <run.dir>/<job.name>")
    result = read_json(folder.result)
    if result is None or result.get("status") != "finished":
        status = read_status(folder.status)
        state = f"{status.state}: {status.message}" if status else "status unknown"
        raise UserError(f"{path}: not finished ({state}); run its training command again to resume")
    return FinishedRun(folder, result)


def read_runs(paths: Sequence[str]) -> list[FinishedRun]:
    """The runs in these folders. Raises UserError with a line for each that cannot be read."""
    runs: list[FinishedRun] = []
    lines: list[str] = []
    for path in dict.fromkeys(Path(path) for path in paths):
        try:
            runs.append(read_run(path))
        except UserError as error:
            lines += error.lines
    if lines:
        raise UserError(*lines)
    return runs


def with_distinct_names(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs, to be shown together: those of the same name are called by their folders."""
    names = [run.name for run in runs]
    called = [str(run.folder.path) if names.count(run.name) > 1 else run.name for run in runs]
    pairs = zip(runs, called, strict=True)
    return [replace(run, result={**run.result, "name": name}) for run, name in pairs]


def common_split(runs: Sequence[FinishedRun], requested: str | None) -> str:
    """The split to compare runs on: the requested one, else test, else validation.

    Raises UserError if the runs have none in common.
    """
    for split in [requested] if requested else ["test", "validation"]:
        if all(split in run.result["eval"] for run in runs):
            return split
    found = "; ".join(f"{run.name} has {', '.join(run.result['eval'])}" for run in runs)
    raise UserError(f"the runs have no scores on {requested or 'a common split'} ({found})")
