"""Whose run a folder holds: what was begun there, and whether this job may carry it on."""

from __future__ import annotations

from typing import Any

from distsent.errors import UserError
from distsent.job.job import Job
from distsent.run import checkpoint as checkpoints
from distsent.run.folder import RunFolder, read_json, storing, write_json
from distsent.training.finish import versions

# Keys that change where, how fast or how loudly a run computes, but not what: these may differ when it is carried on.
FREE = (
    "run.dir", "run.stall_seconds", "run.resume", "data.store", "train.token_budget", "eval.batch_tokens",
    "checkpoint.every_steps", "checkpoint.every_seconds", "checkpoint.keep", "log.every", "log.tensorboard",
)  # fmt: skip
CURE = "run.resume=changed to carry on all the same, or run.resume=never to begin anew"


class Claim:
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
        with storing(self.folder.path):
            self.folder.claim()
            if self.job.run.resume == "never" and not living:
                self.folder.clear()
            result = self._result()
            if result is None:
                self.holds = True
                kept = {key: self._begun.get(key) for key in ("corpus", "precision")}
                write_json(self.folder.job, {"job": self.job.to_dict(), "versions": versions(), "world_size": world_size, **kept})
            return result

    def _result(self) -> Any:
        folder, job = self.folder, self.job
        before, result = read_json(folder.job), read_json(folder.result)
        # Where nothing was trained there is nothing that a corrected job could contradict.
        if before is None or (result is None and not checkpoints.steps(folder.checkpoints)):
            return None
        changed = [key for key in Job.from_dict(before["job"], str(folder.job)).changed(job) if key not in FREE]
        if changed and job.run.resume != "changed":
            raise UserError(
                f"{folder.path}: this run was begun with another {', '.join(changed)}; give the new one another job.name, or {CURE}"
            )
        if result is not None and result.get("status") == "finished" and not changed:
            folder.say("finished")
            return result
        if changed:  # the result is another job's: this one is not finished before it has one of its own
            folder.result.unlink(missing_ok=True)
        self._begun = before
        return None

    @property
    def precision(self) -> str:
        """What the job asks for; "auto" means what it meant when the run was begun."""
        asked = self.job.train.precision
        return str(self._begun.get("precision") or asked) if asked == "auto" else asked

    def pin(self, corpus: str, precision: str) -> None:
        """Keep what the run is begun with beside its job. `corpus`: the fingerprint of its rows.

        Raises UserError where the rows are not those that it was begun with: their order would be another one.
        """
        if self._begun.get("corpus") not in (None, corpus) and self.job.run.resume != "changed":
            raise UserError(
                f"{self.folder.path}: data.source has other rows than when this run was begun; bring the former ones back, or "
                f"{CURE}"
            )
        with storing(self.folder.path):
            write_json(self.folder.job, read_json(self.folder.job) | {"corpus": corpus, "precision": precision})
