"""Whose run a folder holds: what was started there, and whether this job may resume it."""

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent import __version__
from distsent.data.token_store import TokenStore
from distsent.distributed.world import World
from distsent.errors import FINISHED, UserError
from distsent.job.job import Job
from distsent.runtime.checkpoint import list_checkpoints
from distsent.runtime.device import pinned_precision
from distsent.runtime.run_folder import RunFolder, disk_errors_as_user_errors, read_json, write_json
from distsent.runtime.run_status import RunStatus

# These may differ when a run resumes: they change where, how fast or how verbosely it computes, but
# not what.
RESUMABLE_KEYS = (
    "run.dir", "run.stall_seconds", "run.resume", "data.store", "train.token_budget",
    "eval.batch_tokens", "checkpoint.every_steps", "checkpoint.every_seconds", "checkpoint.keep",
    "log.every", "log.tensorboard",
)  # fmt: skip
START = "DISTSENT_START"  # names a batch job, which may be started several times
FIX = "run.resume=changed to resume anyway, or run.resume=never to start over"


class RunClaim:
    """A job's claim on its run folder. `job.json` records what the run was started with.

    `holds`: whether this process has locked the folder for a run that is not finished. Before,
    `status.json` belongs to another process or to another job's run.
    """

    def __init__(self, folder: RunFolder, job: Job) -> None:
        self.folder, self.job = folder, job
        self.holds = False
        self._joined = False  # whether this process has been in the run, before a rejoin
        self._started: dict[str, Any] = {}  # the earlier job.json, if there is a run to resume

    def take(self, world: World) -> dict[str, Any] | None:
        """Lock the folder for this job. Returns the result of a run that is already finished.

        Raises UserError if another process holds the lock, or the folder holds another job's run.
        """
        joined = any(world.allgather_object(self._joined, "run.joined"))
        result = world.on_main(lambda: self._take(world.size, joined), "run.claim")
        self._joined = True
        return result

    def _take(self, world_size: int, joined: bool) -> dict[str, Any] | None:
        folder, self.holds = self.folder, False
        folder.create()
        with disk_errors_as_user_errors(folder.path):
            folder.lock()
            if self.job.run.resume == "never" and not joined and not self._is_same_start():
                folder.reset()
            result = self._finished_result()
            (folder.path / "status").unlink(missing_ok=True)  # of older versions
            if result is not None:
                return result
            self.holds = True
            about = {"job": self.job.to_dict(), "versions": versions(), "world_size": world_size}
            kept = {key: self._started.get(key) for key in ("rows", "precision")}
            write_json(folder.job, {**about, "start": os.environ.get(START), **kept})
        return None

    def _is_same_start(self) -> bool:
        """Whether an earlier start of the same batch job has already started this run over."""
        before, start = read_json(self.folder.job), os.environ.get(START)
        return before is not None and start is not None and before.get("start") == start

    def _finished_result(self) -> dict[str, Any] | None:
        """The result if this job's run is finished. Raises UserError for another job's run."""
        folder, job = self.folder, self.job
        before, result = read_json(folder.job), read_json(folder.result)
        # If nothing was trained, there is nothing that a corrected job could contradict.
        if before is None or (result is None and not list_checkpoints(folder.checkpoints)):
            return None
        first = Job.from_dict(before["job"], str(folder.job))
        changed = [key for key in first.changed_keys(job) if not may_change(key, first, job)]
        if changed and job.run.resume != "changed":
            raise UserError(
                f"{folder.path}: this run was started with different values of "
                f"{', '.join(changed)}; give the new run another job.name, or {FIX}"
            )
        if result is not None and result.get("status") == "finished" and not changed:
            status = RunStatus.started("", result["steps"], result["steps"])
            folder.write_status(status.ended(FINISHED, "finished"))
            return dict(result)
        if changed:  # the result is that of another job
            folder.result.unlink(missing_ok=True)
        self._started = before
        return None

    @property
    def precision(self) -> str:
        """The job's precision; a choice that the first start measured stays."""
        return pinned_precision(self.job.train.precision, self._started)

    def record_dataset(self, store: TokenStore, precision: str) -> None:
        """Record rows and precision in `job.json`. Raises UserError if the rows have changed.

        Other rows would mean another order of the examples.
        """
        rows = {}
        for name, split in store.splits.items():
            labels = xxh3_128_hexdigest(np.asarray(split.labels).tobytes())
            rows[name] = [store.meta["splits"][name]["texts"], labels]
        if self._started.get("rows") not in (None, rows) and self.job.run.resume != "changed":
            raise UserError(
                f"{self.folder.path}: data.source has other rows than when this run was started; "
                f"restore the original ones, or {FIX}"
            )
        with disk_errors_as_user_errors(self.folder.path):
            record = read_json(self.folder.job) | {"rows": rows, "precision": precision}
            write_json(self.folder.job, record)


def may_change(key: str, first: Job, job: Job) -> bool:
    """Whether a run may resume with a different value of `key`."""
    if key in ("data.source", "model.name"):
        # Only a path that is spelled differently: older versions recorded it without its "./".
        section, name = key.split(".")
        paths = [str(getattr(getattr(one, section), name)) for one in (first, job)]
        return paths[0].removeprefix("./") == paths[1].removeprefix("./")
    return key in RESUMABLE_KEYS


def versions() -> dict[str, str]:
    """Versions of all software that a result depends on."""
    found = {"python": platform.python_version(), "distsent": __version__}
    for package in ("torch", "transformers", "datasets", "tokenizers", "horovod"):
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
