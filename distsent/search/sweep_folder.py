"""The sweep folder, `<run.dir>/<job.name>-sweep/`: what is searched, and a run folder per trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distsent.errors import UserError
from distsent.job.check import Assignment, shorten
from distsent.job.job import Job
from distsent.job.load import resolve
from distsent.job.resumable import RESUMABLE_KEYS
from distsent.lock import locked
from distsent.runtime.run_folder import (
    RunFolder,
    disk_errors_as_user_errors,
    read_json,
    write_text,
)
from distsent.search.space import Parameters, Space, parameters_as_keys
from distsent.search.trials import TrialFolder, TrialRun, all_first_failed, read_runs, trials_of
from distsent.storage import is_file
from distsent.versions import versions

MAY_DIFFER = {"job.name", *RESUMABLE_KEYS}


class SweepFolder:
    """All paths of a sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep = path / "sweep.json"
        self.log = path / "sweep.log"
        self.folds = path / "folds"
        self.trials = path / "trials.json"
        self.best = path / "best.toml"
        self.picture = path / "sweep.png"

    def trial(self, name: str) -> TrialFolder:
        return TrialFolder(self.path / name)


@dataclass(frozen=True)
class Sweep:
    """A job, the space around it, and where its trials are. `base`: the keys of the job."""

    base: Sequence[Assignment]
    job: Job
    space: Space
    space_file: str

    @property
    def folder(self) -> SweepFolder:
        return SweepFolder(Path(self.job.run.dir) / f"{self.job.job.name}-sweep")

    def job_with(self, parameters: Parameters, name: str) -> Job:
        """The job with these parameters, under another name. Raises UserError."""
        job = resolve([*self.base, *parameters_as_keys(self.space_file, parameters)])
        return replace(job, job=replace(job.job, name=name))

    def job_of(self, run: TrialRun, labels: Sequence[str]) -> Job:
        """The job that trains a run. `labels`: the names of the classes, for a fold."""
        job, folder = self.job_with(run.parameters, run.name), self.folder
        store = job.data.store or str(Path(job.run.dir) / ".tokens")
        data = replace(job.data, store=store)
        if run.fold:
            from distsent.data.folds import data_of_fold

            source = str(fold_folder(folder, run.fold, self.space.search.folds).absolute())
            data = data_of_fold(data, source, labels)
        return replace(job, data=data, run=replace(job.run, dir=str(folder.path), resume="auto"))


def fold_folder(folder: SweepFolder, fold: int, folds: int) -> Path:
    return folder.folds / f"{fold}of{folds}"


def open_sweep(sweep: Sweep, poll: Callable[[], None]) -> list[str]:
    """Create the sweep folder, or check that it is this sweep's. The names of the classes.

    Raises UserError for another sweep's folder, and for a dataset that no trial could use. A sweep
    of which all trials have failed starts over, with the rows that the dataset has now.
    """
    folder = sweep.folder
    with disk_errors_as_user_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        with locked(folder.path / ".open.lock", lambda holder: None, poll):
            return _open(sweep)


def _open(sweep: Sweep) -> list[str]:
    folder, known = sweep.folder, _read(sweep.folder.sweep)
    if known is not None:
        changed, runs = [*_changes(sweep, known)], read_runs(folder.path)
        search, failed = sweep.space.search, all(run.state == "failed" for run in runs)
        if (changed and failed) or all_first_failed(trials_of(runs, search.folds), search.trials):
            for run in runs:  # their runs hold nothing: they are tried anew
                shutil.rmtree(folder.trial(run.name).files.path)
        elif changed:
            fix = "restore it, or give the other sweep another job.name"
            raise UserError(f"{folder.path}: {changed[0]} since this sweep was started; {fix}")
        else:
            _check_runs(sweep, runs)
            return list(known["labels"])
    if is_file(RunFolder(folder.path).job):
        raise UserError(f"{folder.path}: is a run, not a sweep; choose another job.name")
    labels = _prepare(sweep)
    about = {"job": sweep.job.to_dict(), "space": sweep.space.to_dict(), "labels": labels}
    write_json(folder.sweep, {**about, "versions": versions()})
    return labels


def _read(path: Path) -> dict[str, Any] | None:
    """sweep.json; None before the first start. Raises UserError if it is damaged."""
    found: dict[str, Any] | None = read_json(path)
    if found is not None:
        kinds = {"job": dict, "space": dict, "labels": list}
        if not all(isinstance(found.get(key), kind) for key, kind in kinds.items()):
            raise UserError(f"{path}: damaged; restore it, or give the sweep another job.name")
    return found


def _check_runs(sweep: Sweep, runs: Sequence[TrialRun]) -> None:
    """Raises UserError if the parameters of a run are none of this space: somebody changed them."""
    for run in runs:
        if not sweep.space.holds(run.parameters):
            path, fix = sweep.folder.trial(run.name).files.path, "delete the folder"
            problem = f"{shorten(dict(run.parameters))} in its sweep/trial.json is not in the space"
            raise UserError(f"{path}: {problem}; {fix}, and the trial is decided again")


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def _changes(sweep: Sweep, known: Mapping[str, Any]) -> Iterator[str]:
    """What differs from the sweep that the folder holds, a phrase each."""
    first = Job.from_dict(known["job"], str(sweep.folder.sweep))
    for key in first.changed_keys(sweep.job):
        if key not in MAY_DIFFER:
            before, now = (dict(job.items())[key] for job in (first, sweep.job))
            yield f"{key} of the job has changed from {shorten(before)} to {shorten(now)}"
    before, now = known["space"], sweep.space.to_dict()
    for key in dict.fromkeys([*before, *now]):
        if before.get(key) != now.get(key):
            was, is_ = (shorten(x[key]) if key in x else "not there" for x in (before, now))
            yield f"{key} of the space has changed from {was} to {is_}"


def _prepare(sweep: Sweep) -> list[str]:
    """Open the dataset once, and write that of each fold. The names of its classes."""
    import numpy as np

    from distsent.data.dataset import open_dataset
    from distsent.data.folds import draw_folds, rows_as_json

    dataset = open_dataset(sweep.job.data, sweep.job.seeds[0])
    splits, names = dataset.splits, list(dataset.label_names)
    folds = sweep.space.search.folds
    if not folds and "validation" not in splits:
        fix = "set data.validation_fraction, e.g. 0.1, or [search] folds, e.g. 5"
        raise UserError(f"trials are compared on validation, and the dataset has none: {fix}")
    if folds:
        pooled = [splits[name] for name in ("train", "validation") if name in splits]
        labels = np.concatenate([np.asarray(split.labels) for split in pooled])
        hashes = np.concatenate([np.asarray(split.hashes) for split in pooled])
        asked = f"{sweep.space_file}: search.folds = {folds}"
        fold_of_row = draw_folds(labels, hashes, folds, asked)
        lines = [*rows_as_json(pooled, names)]
        for fold in range(1, folds + 1):
            place = fold_folder(sweep.folder, fold, folds)
            place.mkdir(parents=True, exist_ok=True)
            held_out = fold_of_row == fold - 1
            for name, rows in (("train", ~held_out), ("validation", held_out)):
                kept = "".join(lines[row] for row in np.flatnonzero(rows))
                write_text(place / f"{name}.jsonl", kept)
    return names
