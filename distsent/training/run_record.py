"""A job's claim on its run folder, and what `job.json` records of the run."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from distsent.data.files import READING_KEYS, ReadAs, recorded_reading
from distsent.data.tokens.store import TokenStore
from distsent.distributed.world import World
from distsent.errors import (
    FINISHED,
    UserError,
)
from distsent.job.job import Job
from distsent.job.resumable import RESUMABLE_KEYS
from distsent.runtime.checkpoint import list_checkpoints
from distsent.runtime.device import pinned_precision
from distsent.runtime.run_folder import (
    RunFolder,
    disk_errors_as_user_errors,
    is_restart,
    read_json,
)
from distsent.runtime.run_status import START, RunStatus, refusal_file
from distsent.storage import is_folder
from distsent.versions import versions

RECORDED = "rows", "encoder", "precision", "operators", "read_as"  # of the first start, in job.json
FIX = "run.resume=changed to resume anyway, or run.resume=never to start over"


class RunClaim:
    """A job's claim on its run folder. `job.json` records what the run was started with.

    `holds`: whether this process has locked the folder for a run that is not finished. Before,
    `status.json` belongs to another process or to another job's run. `rescored`: `what` has changed
    since the earlier scores, so that new ones cannot be compared with them, and the `step` at which
    the run resumed with it; None for the step: in this start. None if nothing has. `starts_over`:
    an earlier run is in the folder until this one replaces it.
    """

    def __init__(self, folder: RunFolder, job: Job) -> None:
        self.folder, self.job = folder, job
        self.holds = False
        self._token: str | None = None  # of the world's last main worker, before a rejoin
        self._started: dict[str, Any] = {}  # the earlier job.json, if there is a run to resume
        self._record: dict[str, Any] = {}  # the next job.json
        self.rescored: dict[str, Any] | None = None
        self.starts_over = False
        self._begun = False  # this world of workers has opened the run before

    def take(
        self, world: World, say: Callable[[str | None], None], poll: Callable[[], None]
    ) -> dict[str, Any] | None:
        """Lock the folder for this job. Returns the result of a run that is already finished.

        `say` gets lines for the user. `poll` is called while the lock is not clear, and may raise.
        Raises UserError if another process holds the lock, or the folder holds another job's run.
        """
        tokens, begun = zip(
            *world.allgather_object((self._token, self._begun), "run.joined"), strict=True
        )
        self.starts_over = self.job.run.resume == "never" and not any(begun)
        taken = partial(self._take, world.size, next(filter(None, tokens), None), say, poll)
        self._token, result = world.on_main(taken, "run.claim")
        return result

    def _take(
        self,
        world_size: int,
        known: str | None,
        say: Callable[[str | None], None],
        poll: Callable[[], None],
    ) -> tuple[str, dict[str, Any] | None]:
        folder, self.holds, self.rescored = self.folder, False, None
        start, first = start_name(), START not in os.environ and not is_restart()
        folder.create()
        with disk_errors_as_user_errors(folder.path):
            say(folder.lock(known, poll))
            # An earlier start with this name may have started this run over already.
            before = self._job_before() or {}
            self.starts_over &= first or before.get("start") != start
            result = None if self.starts_over else self._finished_result()
            folder.owner.delete(folder.path / "status")  # of older versions
            if result is not None:
                return folder.owner.token, result
            refusal_file(folder.path).unlink(missing_ok=True)  # of an earlier start
            self.holds = True
            about = {"job": self.job.to_dict(), "versions": versions(), "world_size": world_size}
            kept = {key: self._started.get(key) for key in RECORDED}
            self._record = {**about, "start": start, **kept}
            self._write_record()
        return folder.owner.token, None

    def _write_record(self, confirmed: bool = False) -> None:
        """Write `job.json`. An earlier run's is kept until that resumes, or is replaced."""
        if confirmed or not (self._started or self.starts_over):
            self.folder.write_json(self.folder.job, self._record)

    def begin(self, world: World) -> None:
        """On all workers, when rows are read and the model is loaded: replace an earlier run."""
        world.on_main(self._start_over, "run.begin")
        self._begun = True

    def _start_over(self) -> None:
        if self.starts_over:
            with disk_errors_as_user_errors(self.folder.path):
                self.folder.reset()
                self.starts_over = False
                self._write_record()

    def confirm(self, step: int) -> None:
        """Record that the run resumes with this job: its checkpoint fits, its rows are read.

        And that scores up to this step do not count, for a start after one that saved nothing.
        """
        if self._started:
            if self.rescored and step:
                since = self.rescored["step"] or step
                self._record["rescored"] = {"what": self.rescored["what"], "step": since}
            with disk_errors_as_user_errors(self.folder.path):
                # First: a result beside a job is that job's.
                self.folder.owner.delete(self.folder.result)
                self._write_record(confirmed=True)

    def _finished_result(self) -> dict[str, Any] | None:
        """The result if this job's run is finished. Raises UserError for another job's run."""
        folder, job = self.folder, self.job
        checkpoints = list_checkpoints(folder.checkpoints)
        before, result = self._job_before(), self._result_before(bool(checkpoints))
        # If nothing was trained, there is nothing that a corrected job could contradict.
        if result is None and not checkpoints:
            return None
        if before is None:
            self._adopt()
            return None
        first = Job.from_dict(before["job"], str(folder.job))
        changed = [key for key in first.changed_keys(job) if not may_change(key, first, job)]
        if changed and job.run.resume != "changed":
            raise UserError(
                f"{folder.path}: this run was started with different values of "
                f"{', '.join(changed)}; give the new run another job.name, or {FIX}"
            )
        # A model that was deleted is made again from the last checkpoint.
        complete = is_folder(folder.model) or not checkpoints
        if result is not None and result.get("status") == "finished" and not changed and complete:
            status = RunStatus.started("", result["steps"], result["steps"])
            folder.write_status(status.ended(FINISHED, "finished"))
            return dict(result)
        scoring = [key for key in changed if key == "eval.metric" or key.startswith("data.")]
        self.rescored = _now(", ".join(scoring)) if scoring else before.get("rescored")
        self._started = before
        return None

    def _job_before(self) -> dict[str, Any] | None:
        """What an earlier start wrote to `job.json`. Raises UserError if it is damaged.

        None also if it is damaged and the job says what to do without it.
        """
        try:
            found: dict[str, Any] | None = read_json(self.folder.job, f"restore it, or {FIX}")
        except UserError:
            if self.job.run.resume == "auto":
                raise
            return None
        return found

    def _result_before(self, again: bool) -> dict[str, Any] | None:
        """The earlier result. None also if it is damaged, but can be made `again`."""
        try:
            fix = "restore it, or run.resume=never to start over"
            found: dict[str, Any] | None = read_json(self.folder.result, fix)
        except UserError:
            if again or self.job.run.resume != "auto":
                return None
            raise
        return found

    def _adopt(self) -> None:
        """Continue a run without a record of its job. Raises UserError unless the user wants it."""
        if self.job.run.resume != "changed":
            problem = "holds a run, but no job.json that this job could be compared with"
            raise UserError(f"{self.folder.path}: {problem}; restore it, or {FIX}")
        self.folder.owner.delete(self.folder.result)

    @property
    def precision(self) -> str:
        """The job's precision; a choice that the first start measured stays."""
        return pinned_precision(self.job.train.precision, self._started)

    @property
    def read_as(self) -> ReadAs | None:
        """How an earlier start read its files; None on other workers than the main one."""
        return recorded_reading(self._started)

    def record_content(
        self, store: TokenStore, config: str, precision: str, operators: str
    ) -> str | None:
        """Record rows, encoder, precision and operators in `job.json`. `config`: a hash.

        Returns a line for the log if the operators have changed.

        Raises UserError if the rows or the encoder have changed. Other rows would mean another
        order of the examples, another tokenizer or configuration that the weights do not fit.
        """
        rows = {}
        for name, split in store.splits.items():
            labels = xxh3_128_hexdigest(np.asarray(split.labels).data)
            rows[name] = [store.meta["splits"][name]["texts"], labels]
        if self._started.get("rows") not in (None, rows) and self.job.run.resume != "changed":
            raise UserError(
                f"{self.folder.path}: data.source has other rows than when this run was started; "
                f"restore the original ones, or {FIX}"
            )
        earlier = self._started.get("rows") or rows
        if earlier.get("validation") != rows.get("validation"):
            known = self.rescored is not None and self.rescored["step"] is None
            self.rescored = self.rescored if known else _now("the rows of validation")
        libraries = {name: versions().get(name) for name in ("transformers", "tokenizers")}
        encoder = {**libraries, "tokenizer": store.meta["tokenizer"], "configuration": config}
        self._check_encoder(encoder)
        with disk_errors_as_user_errors(self.folder.path):
            self._record |= {"rows": rows, "encoder": encoder, "precision": precision}
            self._record["operators"] = operators
            self._record["label_values"] = store.meta["label_values"]
            self._record["read_as"] = store.meta["read_as"]
            self._write_record()
        before = self._started.get("operators") or operators
        if before == operators:
            return None
        return f"operators: {before} before, {operators} now: the last bits may differ from here on"

    def _check_encoder(self, encoder: dict[str, Any]) -> None:
        """Raise UserError unless the encoder is the one of the first start, as far as is known.

        Another version of the libraries may write the same tokenizer in another way.
        """
        before = self._started.get("encoder") or {}
        changed = [key for key, value in encoder.items() if before.get(key, value) != value]
        if {"transformers", "tokenizers"}.intersection(changed):
            return
        if changed and self.job.run.resume != "changed":
            raise UserError(
                f"{self.folder.path}: model.name has another {changed[0]} than when this run was "
                f"started; restore the original one, or {FIX}"
            )


def start_name(env: Mapping[str, str] = os.environ) -> str | None:
    """What the starts of a batch job have in common, or those of a torchrun. None for others."""
    run = env.get("TORCHELASTIC_RUN_ID")
    if START in env or run is None:
        return env.get(START)
    # Without an id, rank 0 stays on one node: there, torchrun has a folder of logs of its own.
    folder = env.get("TORCHELASTIC_ERROR_FILE", "").rpartition("/attempt_")[0]
    return f"torchrun {folder if run == 'none' else run}"


def may_change(key: str, first: Job, job: Job) -> bool:
    """Whether a run may resume with a different value of `key`."""
    if key in ("data.source", "model.name"):
        # Only a path that is spelled differently: older versions recorded it without its "./".
        section, name = key.split(".")
        paths = [str(getattr(getattr(one, section), name)) for one in (first, job)]
        return paths[0].removeprefix("./") == paths[1].removeprefix("./")
    # With rows that differ, the run does not resume: see record_content
    return key in RESUMABLE_KEYS or key in READING_KEYS


def _now(what: str) -> dict[str, Any]:
    """A change in this start: see `RunClaim.rescored`."""
    return {"what": what, "step": None}
