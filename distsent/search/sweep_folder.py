"""The sweep folder, `<run.dir>/<job.name>-sweep/`: what is searched, and a run folder per trial."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distsent.errors import FAILED, UserError
from distsent.job.check import Assignment, shorten
from distsent.job.job import Job
from distsent.job.load import resolve
from distsent.job.resumable import RESUMABLE_KEYS
from distsent.lock import locked
from distsent.runtime.ownership import Owner
from distsent.runtime.run_folder import (
    RunFolder,
    disk_errors_as_user_errors,
    read_json,
    write_text,
)
from distsent.runtime.run_status import read_status
from distsent.search.space import Parameters, Space, parameters_as_keys
from distsent.search.trials import (
    Claim,
    TrialFolder,
    TrialRun,
    all_first_failed,
    read_runs,
    trials_of,
)
from distsent.storage import entries, is_file
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


def create_folder(sweep: Sweep) -> None:
    """Create the sweep folder. Raises UserError if a run has its name."""
    folder = sweep.folder
    with disk_errors_as_user_errors(folder.path):
        folder.path.mkdir(parents=True, exist_ok=True)
        if is_file(RunFolder(folder.path).job) and not is_file(folder.sweep):
            raise UserError(f"{folder.path}: is a run, not a sweep; choose another job.name")


def open_sweep(sweep: Sweep, poll: Callable[[], None], shared: bool = False) -> list[str]:
    """Begin the sweep, or check that the folder is this sweep's. The names of the classes.

    `shared`: whether others may work in the folder now. Raises UserError for another sweep's
    folder, and for a dataset that no trial could use. A sweep of which all trials have failed may
    change: it starts over, with the rows that the dataset has now.
    """
    path = sweep.folder.path
    with (
        disk_errors_as_user_errors(path),
        locked(path / ".open.lock", lambda holder: None, poll),
    ):
        return _open(sweep, poll, shared)


def _open(sweep: Sweep, poll: Callable[[], None], shared: bool) -> list[str]:
    known = _read(sweep.folder.sweep)
    if known is None:
        return _begin(sweep, _prepare(sweep))
    runs, changes = read_runs(sweep.folder.path), [*_changes(sweep, known)]
    search = sweep.space.search
    in_vain = all_first_failed(trials_of(runs, search.folds), search.trials)
    if changes:
        empty = [run for run in runs if _is_empty(sweep.folder.trial(run.name), run)]
        _check_replaceable(sweep, changes[0], len(empty) == len(runs), not shared or in_vain)
        labels = _prepare(sweep)
        _delete(sweep, empty, poll)
        return _begin(sweep, labels)
    failed = [run for run in runs if in_vain and run.state == "failed"]
    kept = [run for run in runs if run not in failed]
    _delete(sweep, failed, poll)  # they are tried anew; what has finished or is trained stays
    if failed and not kept:  # with the rows that the dataset has now
        return _begin(sweep, _prepare(sweep))
    _check_runs(sweep, kept)
    return list(known["labels"])


def _begin(sweep: Sweep, labels: list[str]) -> list[str]:
    about = {"job": sweep.job.to_dict(), "space": sweep.space.to_dict(), "labels": labels}
    write_json(sweep.folder.sweep, {**about, "versions": versions()})
    return labels


def _is_empty(folder: TrialFolder, run: TrialRun) -> bool:
    """Whether a run has failed, or has not ended and saved nothing. Raises OSError."""
    status = read_status(folder.files.status)
    saved = entries(folder.files.checkpoints) or (status is not None and status.step)
    return run.state == "failed" or (run.state == "running" and not saved)


def _check_replaceable(sweep: Sweep, change: str, empty: bool, alone: bool) -> None:
    """Raises UserError unless nothing was trained, and nobody works here, by the old job.

    `empty`: whether all runs are. `alone`: whether the other controllers have ended, if any.
    """
    if empty and alone:
        return
    fix = "restore it, or give the other sweep another job.name"
    fix += ", or start it once without --join" if empty else ""
    raise UserError(f"{sweep.folder.path}: {change} since this sweep was started; {fix}")


def _delete(sweep: Sweep, runs: Sequence[TrialRun], poll: Callable[[], None]) -> None:
    """Raises UserError with code FAILED if another controller has a claim to one of them."""
    for run in runs:
        folder = sweep.folder.trial(run.name)
        claim = Claim.take(folder.own, poll)
        if claim is None:
            fix = "wait until its controller has ended"
            raise UserError(f"{folder.files.path}: is in use right now; {fix}", code=FAILED)
        try:
            Owner().delete(folder.files.path)
        finally:
            claim.release()


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
    from distsent.data.folds import draw_folds, not_scored, rows_as_json

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
        if left := int(np.count_nonzero(fold_of_row < 0)):
            print(f"distsent: {not_scored(left)}", file=sys.stderr)
        lines = [*rows_as_json(pooled, names)]
        for fold in range(1, folds + 1):
            place = fold_folder(sweep.folder, fold, folds)
            place.mkdir(parents=True, exist_ok=True)
            held_out = fold_of_row == fold - 1
            for name, rows in (("train", ~held_out), ("validation", held_out)):
                kept = "".join(lines[row] for row in np.flatnonzero(rows))
                write_text(place / f"{name}.jsonl", kept)
    return names
