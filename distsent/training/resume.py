"""Whose run a folder holds: what was begun there, and whether this job may carry it on."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent.data.token_store import TokenStore
from distsent.errors import FINISHED, UserError
from distsent.job.job import Job
from distsent.runtime import checkpoint as checkpoints
from distsent.runtime.device import pinned_precision
from distsent.runtime.run_folder import RunFolder, disk_errors_as_user_errors, read_json, write_json
from distsent.runtime.run_status import RunStatus
from distsent.training.artifacts import versions

# Keys that change where, how fast or how loudly a run computes, but not what: these may differ when it is carried on.
RESUMABLE_KEYS = (
    "run.dir", "run.stall_seconds", "run.resume", "data.store", "train.token_budget", "eval.batch_tokens",
    "checkpoint.every_steps", "checkpoint.every_seconds", "checkpoint.keep", "log.every", "log.tensorboard",
)  # fmt: skip
START = "DISTSENT_START"  # names a batch job, which may be started several times
CURE = "run.resume=changed to carry on all the same, or run.resume=never to begin anew"


class RunClaim:
    """A job's claim to its run folder: the first worker makes it. `job.json` keeps what the run was begun with."""

    def __init__(self, folder: RunFolder, job: Job) -> None:
        self.folder, self.job = folder, job
        self.holds = False  # before, the folder's status is that of another run, living or finished
        self._begun: dict[str, Any] = {}  # what job.json said, where there is something to carry on

    def take(self, world_size: int, living: bool) -> Any:
        """The run's result if it is finished, else None, and the folder is this job's. Raises UserError where it is another's.

        `living`: the run goes on in workers that have begun it, so there is nothing to begin anew.
        """
        self.folder.create()
        with disk_errors_as_user_errors(self.folder.path):
            self.folder.lock()
            if self.job.run.resume == "never" and not living and not self._is_ours():
                self.folder.reset()
            result = self._result()
            if result is None:
                self.holds = True
                kept = {key: self._begun.get(key) for key in ("rows", "precision")}
                about = {
                    "versions": versions(),
                    "world_size": world_size,
                    "start": os.environ.get(START),
                }
                write_json(self.folder.job, {"job": self.job.to_dict(), **about, **kept})
            return result

    def _is_ours(self) -> bool:
        """Whether an earlier start of the same batch job has begun this run anew already."""
        before, start = read_json(self.folder.job), os.environ.get(START)
        return before is not None and start is not None and before.get("start") == start

    def _result(self) -> Any:
        folder, job = self.folder, self.job
        before, result = read_json(folder.job), read_json(folder.result)
        # Where nothing was trained there is nothing that a corrected job could contradict.
        if before is None or (
            result is None and not checkpoints.list_checkpoints(folder.checkpoints)
        ):
            return None
        begun = Job.from_dict(before["job"], str(folder.job))
        changed = [
            key
            for key in begun.changed(job)
            if key not in RESUMABLE_KEYS and not _is_same_path(key, begun, job)
        ]
        if changed and job.run.resume != "changed":
            raise UserError(
                f"{folder.path}: this run was begun with another {', '.join(changed)}; give the new one another job.name, or {CURE}"
            )
        if result is not None and result.get("status") == "finished" and not changed:
            folder.write_status(RunStatus().ended(FINISHED, "finished"))
            return result
        if (
            changed
        ):  # the result is another job's: this one is not finished before it has one of its own
            folder.result.unlink(missing_ok=True)
        self._begun = before
        return None

    @property
    def precision(self) -> str:
        """What the job asks for, as it was meant when the run was begun: "auto" is measured, and so is fp16 without a GPU."""
        return pinned_precision(self.job.train.precision, self._begun)

    def pin(self, store: TokenStore, precision: str) -> None:
        """Keep what the run is begun with beside its job. Raises UserError where the rows are others: so would be their order."""
        rows = {
            name: [
                store.meta["splits"][name]["texts"],
                xxh3_128_hexdigest(np.asarray(split.labels).tobytes()),
            ]
            for name, split in store.splits.items()
        }
        if self._begun.get("rows") not in (None, rows) and self.job.run.resume != "changed":
            raise UserError(
                f"{self.folder.path}: data.source has other rows than when this run was begun; bring the former ones back, or "
                f"{CURE}"
            )
        with disk_errors_as_user_errors(self.folder.path):
            write_json(
                self.folder.job, read_json(self.folder.job) | {"rows": rows, "precision": precision}
            )


def _is_same_path(key: str, one: Job, other: Job) -> bool:
    """Whether a path is only normalize_label in another way: earlier versions kept one without its ./"""
    section, _, name = key.partition(".")
    if key not in ("data.source", "model.name"):
        return False
    paths = [str(getattr(getattr(job, section), name)).removeprefix("./") for job in (one, other)]
    return paths[0] == paths[1]
