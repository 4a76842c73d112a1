"""A finished run, read back from its folder: what reports, model cards and TensorBoard's pictures are made of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distsent.errors import UserError
from distsent.runtime.run_folder import RunFolder, read_json


@dataclass(frozen=True)
class Predictions:
    """A split as the model saw it: logits float32 [n, C], true classes and row numbers int64 [n]."""

    logits: np.ndarray
    labels: np.ndarray
    rows: np.ndarray

    @property
    def classes(self) -> np.ndarray:
        """The predicted class of each row."""
        return self.logits.argmax(axis=1)


@dataclass(frozen=True)
class FinishedRun:
    """`result`: what result.json holds."""

    folder: RunFolder
    result: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.result["name"])

    @property
    def labels(self) -> list[str]:
        return list(self.result["labels"])

    @property
    def job(self) -> dict[str, Any]:
        return dict(self.result["job"])

    def predictions(self, split: str) -> Predictions | None:
        """The model's word on each row of a split; None where it was not kept."""
        from safetensors.numpy import load_file

        path = self.folder.predictions / f"{split}.safetensors"
        return Predictions(**load_file(path)) if path.is_file() else None

    def mistakes(self, split: str) -> list[dict[str, Any]]:
        """The worst mistakes on a split."""
        path = self.folder.predictions / f"{split}.mistakes.jsonl"
        return (
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            if path.is_file()
            else []
        )

    def losses(self) -> list[dict[str, Any]]:
        """The logged training steps."""
        lines = (
            self.folder.metrics.read_text(encoding="utf-8").splitlines()
            if self.folder.metrics.is_file()
            else []
        )
        return [record for record in map(json.loads, lines) if "lr" in record]


def read_run(path: str | Path) -> FinishedRun:
    """The run in the folder `path`. Raises UserError when there is none, or it is not at its end."""
    folder = RunFolder(path)
    if not folder.job.is_file() and not folder.result.is_file():
        raise UserError(
            f"{path}: not a run folder (there is no job.json); give <run.dir>/<job.name>"
        )
    result = read_json(folder.result)
    if result is None or result.get("status") != "finished":
        status = (
            folder.status.read_text(encoding="utf-8").strip()
            if folder.status.is_file()
            else "status unknown"
        )
        raise UserError(
            f"{path}: this run is not finished ({status}); run its training command again to carry on"
        )
    return FinishedRun(folder, result)


def read_runs(paths: Sequence[str]) -> list[FinishedRun]:
    """The runs in these folders. Raises UserError with a line for each that is none, or not at its end."""
    runs: list[FinishedRun] = []
    lines: list[str] = []
    for path in dict.fromkeys(Path(path) for path in paths):
        try:
            runs.append(read_run(path))
        except UserError as error:
            lines += error.lines
    if lines:
        raise UserError(*lines)
    names = [run.name for run in runs]
    for run in runs:
        if names.count(run.name) > 1:  # the same name in two places: the places tell them apart
            run.result["name"] = str(run.folder.path)
    return runs


def common_split(runs: Sequence[FinishedRun], wanted: str | None) -> str:
    """The split to compare runs on: the one wanted, else test, else validation. Raises UserError where they share none."""
    for split in [wanted] if wanted else ["test", "validation"]:
        lacking = [run for run in runs if split not in run.result["eval"]]
        if not lacking:
            return split
    there = "; ".join(f"{run.name} has {', '.join(run.result['eval'])}" for run in runs)
    raise UserError(
        f"the runs were not all scored on {wanted or 'one and the same split'} ({there})"
    )
