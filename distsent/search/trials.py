"""The trials of a sweep as they are on disk: a file each, written when it is decided and ended."""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from distsent.errors import FAILED, UserError
from distsent.job.job import Job
from distsent.lock import FileLock, try_lock
from distsent.runtime.ownership import RunOwner
from distsent.runtime.run_folder import RunFolder, read_json
from distsent.storage import entries, exists, is_folder, sync

State = Literal["running", "finished", "pruned", "failed"]
STATES = get_args(State)
FIRST = 3  # trials that end a sweep if all of them fail
NAME = re.compile(r"trial-(\d{4,})(?:-fold-(\d+))?")


@dataclass(frozen=True)
class TrialRun:
    """A training of a trial: the whole of it, or that of one fold (from 1).

    `value`: the metric of the published weights on validation. `scores`: of each evaluation.
    `failures`: how often it was started in vain. `rows`: a hash of the validation texts.
    """

    trial: int
    parameters: Mapping[str, Any]
    fold: int = 0
    state: State = "running"
    value: float | None = None
    scores: Sequence[float] = ()
    failures: int = 0
    code: int | None = None
    reason: str = ""
    rows: str | None = None

    @property
    def name(self) -> str:
        return f"trial-{self.trial:04}" + (f"-fold-{self.fold}" if self.fold else "")

    @property
    def ended(self) -> bool:
        return self.state != "running"

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises TypeError or ValueError for values that `to_json` does not write."""
        known = {field.name for field in fields(cls)}
        run = cls(**{key: value for key, value in values.items() if key in known})
        is_number = isinstance(run.value, float | int) and math.isfinite(run.value)
        right = (
            isinstance(run.parameters, Mapping) and run.state in STATES
            and is_number == (run.state == "finished") and isinstance(run.reason, str)
            and all(isinstance(score, float | int) for score in run.scores)
            and all(type(x) is int for x in (run.trial, run.fold, run.failures))
        )  # fmt: skip
        if not right:
            raise ValueError("values of other types")
        return run


@dataclass(frozen=True)
class Trial:
    """One set of parameters. With folds, `value` is the mean of theirs and `spread` its deviation.

    `scores`: of each evaluation, without folds. `reason`: why it failed or was pruned.
    """

    number: int
    parameters: Mapping[str, Any]
    state: State
    value: float | None
    spread: float | None
    scores: Sequence[float]
    reason: str
    runs: tuple[TrialRun, ...]

    @classmethod
    def of(cls, runs: Sequence[TrialRun], folds: int) -> Self:
        first, states = runs[0], [run.state for run in runs]
        values = [run.value for run in runs if run.value is not None]
        state: State = "running"
        if "failed" in states:
            state = "failed"
        elif len(runs) == max(1, folds) and "running" not in states:
            state = first.state
        value = statistics.fmean(values) if state == "finished" else None
        return cls(
            first.trial,
            first.parameters,
            state,
            value,
            statistics.stdev(values) if folds and value is not None else None,
            () if folds else first.scores,
            next((run.reason for run in runs if run.reason), ""),
            tuple(runs),
        )


def trials_of(runs: Iterable[TrialRun], folds: int) -> list[Trial]:
    """The trials, by number."""
    found: dict[int, list[TrialRun]] = {}
    for run in runs:
        found.setdefault(run.trial, []).append(run)
    return [Trial.of(found[number], folds) for number in sorted(found)]


def best_of(trials: Iterable[Trial], lower_is_better: bool) -> Trial | None:
    """The best finished trial; of equal ones the first."""
    sign = 1 if lower_is_better else -1
    finished = [trial for trial in trials if trial.value is not None]
    return min(
        finished, key=lambda trial: (sign * float(trial.value or 0), trial.number), default=None
    )


def all_first_failed(trials: Sequence[Trial], total: int) -> bool:
    """Whether some trials have ended, and all of those failed: then the next ones would, too."""
    ended = [trial for trial in trials if trial.state != "running"]
    failed = [trial for trial in ended if trial.state == "failed"]
    return len(failed) == len(ended) >= min(FIRST, total)


class TrialFolder:
    """A run folder, with what the sweep knows of it in the folder `sweep`."""

    def __init__(self, path: Path) -> None:
        self.files = RunFolder(path)
        self.job = path / "job.toml"
        self.own = path / "sweep"
        self.record = self.own / "trial.json"
        self.output = self.own / "output.log"

    def read(self) -> TrialRun:
        """Raises UserError if it is not there, damaged, or another trial's."""
        problem, path = "has no sweep/trial.json", self.files.path
        try:
            with suppress(IsADirectoryError):
                if (found := read_json(self.record)) is not None:
                    run = TrialRun.from_dict(found)
                    if run.name == path.name:
                        return run
                    problem = f"its sweep/trial.json is that of {run.name[:40]}"
        except (UserError, TypeError, ValueError):
            problem = "its sweep/trial.json is damaged"
        raise UserError(f"{path}: {problem}; delete the folder, and the trial is decided again")

    def changed(self) -> int:
        """Another number after each change of metrics.jsonl."""
        with suppress(FileNotFoundError):
            found = self.files.metrics.stat()
            return hash((found.st_mtime_ns, found.st_size, found.st_ino))
        return 0

    def scores(self, metric: str) -> list[tuple[int, float]]:
        """(step, score) of each evaluation of validation so far."""
        found = []
        with suppress(FileNotFoundError):
            text = self.files.metrics.read_text(encoding="utf-8", errors="replace")
            for line in text.split("\n")[:-1]:  # the last one may not be complete
                with suppress(ValueError, KeyError, TypeError):
                    record = json.loads(line)
                    if record.get("split") == "validation":
                        found.append((int(record["step"]), float(record[metric])))
        return found

    def value(self, metric: str) -> tuple[float, str]:
        """(the score of the published weights, a hash of the texts that they were scored on).

        Raises UserError if there is none, or it is not a number.
        """
        result = read_json(self.files.result) or {}
        scores = result.get("eval", {}).get("validation")
        if scores is None:
            raise UserError(f"{self.files.path}: has no score on a validation split")
        value = float(scores[metric])
        if not math.isfinite(value):
            raise UserError(f"{self.files.path}: its {metric} on validation is not a number")
        return value, str(result["texts"]["validation"])


class Claim:
    """The right to train a run and to write what became of it, until `release` or the end.

    Both work as for a run folder: a lock, and signs of life for hosts that the lock does not reach.
    """

    def __init__(self, lock: FileLock, owner: RunOwner) -> None:
        self._lock, self._owner = lock, owner

    @classmethod
    def take(cls, folder: Path, poll: Callable[[], None]) -> Self | None:
        """None if another process has it. May wait, and calls `poll` meanwhile."""
        lock = try_lock(folder / ".lock")
        if lock is None:
            return None
        try:
            return cls(lock, RunOwner.take(folder, lock, poll=poll))
        except UserError as error:
            lock.close()
            if error.code != FAILED:
                raise
            return None
        except BaseException:
            lock.close()
            raise

    def write(self, path: Path, text: str) -> None:
        """Raises UserError if the claim was lost to another process."""
        self._owner.write_text(path, text)

    def release(self) -> None:
        self._owner.release()
        self._lock.close()


def read_runs(sweep: Path) -> list[TrialRun]:
    """All runs that were decided, in order."""
    names = [path for path in entries(sweep) if NAME.fullmatch(path.name) and is_folder(path)]
    runs = [TrialFolder(path).read() for path in names]
    return sorted(runs, key=lambda run: (run.trial, run.fold))


def read_trials(sweep: Path, folds: int) -> list[Trial]:
    """The trials of these runs, by number."""
    return trials_of(read_runs(sweep), folds)


def write_new_run(sweep: Path, run: TrialRun, job: Job | None) -> bool:
    """Write a new run and its job to disk, before anything of it starts.

    False if another process was faster: a folder with content is never replaced by a rename.
    """
    temporary = sweep / f".{run.name}.{secrets.token_hex(6)}.tmp"
    folder = TrialFolder(temporary)
    try:
        folder.own.mkdir(parents=True)
        texts = {folder.record: run.to_json()} | ({folder.job: job.to_toml()} if job else {})
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
            sync(path)
        for path in (folder.own, temporary):
            sync(path)
        os.rename(temporary, sweep / run.name)
        sync(sweep)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        if exists(sweep / run.name):
            return False
        raise
    return True
