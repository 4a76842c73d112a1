"""What a run reports, on its main worker: log, status.json, and the events that listeners hear."""

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from distsent.distributed.world import WorkerLost, World
from distsent.errors import (
    FAILED,
    FINISHED,
    STOPPED,
    USAGE_ERROR,
    NonFinite,
    Stopped,
    UserError,
    WorkerFailed,
)
from distsent.machine_errors import is_out_of_memory
from distsent.runtime.checkpoint import list_checkpoints, step_of
from distsent.runtime.log import Log, RunLog
from distsent.runtime.run_folder import disk_errors_as_user_errors
from distsent.runtime.run_status import WORKER_LOST, Cause, RunStatus
from distsent.tracking.events import CheckpointSaved, Ended, Event, Listeners, final_numbers
from distsent.tracking.start import listeners_of, started
from distsent.training.run_record import RunClaim

# Seconds that the end of a run waits for its trackers. After a failure, 3: the launcher ends all
# workers soon after the others have exited.
PATIENCE = {FINISHED: 30.0, STOPPED: 5.0}


class RunReport:
    """The log opens when it is known where the run resumes. Earlier lines wait for that.

    `status.json` is written only while `claim` holds the folder.
    """

    def __init__(self, world: World, claim: RunClaim) -> None:
        self.log: Log = Log()
        self._folder, self._world, self._claim = claim.folder, world, claim
        self._waiting: list[str] = []  # lines from before the log opened
        self._files, self._trackers = Listeners(), Listeners()
        self._status = RunStatus()
        self._lock = threading.Lock()  # checkpoints and heartbeats report from their own threads

    def info(self, line: str | None) -> None:
        """Log a line, if there is one."""
        if line and isinstance(self.log, RunLog):
            self.log.info(line)
        elif line:
            self._waiting.append(line)

    def open_log(self, step: int, evaluated: int, total: int) -> None:
        """Open the log of a run at `step`, and tell its listeners, on the main worker."""
        folder, job, world = self._folder, self._claim.job, self._world
        with disk_errors_as_user_errors(folder.path):
            self.log = log = RunLog(folder, step, total)
            start = started(folder, job, step, evaluated, world.size, world.transport)
            self._files, self._trackers = listeners_of(folder, job, log.print, self.info)
            for line in self._waiting:
                self.log.info(line)
            self.tell(start)

    def tell(self, event: Event) -> None:
        """Tell all that listen to the run."""
        self._files.hear(event)
        self._trackers.hear(event)

    def close_trackers(self, end: Ended, patience: float | None = None) -> None:
        """Tell trackers how this start ends, and wait for them, for seconds at most."""
        self._trackers.hear(end)
        seconds = PATIENCE.get(end.code, 3.0) if patience is None else patience
        self._trackers.close_within(min(seconds, self._claim.job.run.stall_seconds))

    def close_log(self) -> None:
        self._trackers.close_within(3.0)  # of a rejoin: the run goes on
        self._files.close_within(0.0)
        self._files, self._trackers = Listeners(), Listeners()
        self.log.close()
        self.log, self._waiting = Log(), []

    def starting(self) -> None:
        """Status: model and dataset are being prepared."""
        if self._status.message and self._status.code is None:
            return  # after a rejoin, this start of the run continues
        found = []
        with suppress(OSError):
            found = [] if self._claim.starts_over else list_checkpoints(self._folder.checkpoints)
        started = RunStatus.started("preparing", step_of(found[-1]) if found else 0)
        self._update(lambda status: started)

    def training(self, total: int, step: int | None) -> None:
        """Status: training starts. `step`: of the loaded checkpoint, None after a rejoin."""
        if step is None:
            self._update(lambda status: replace(status, message="training", of=total))
        else:
            self._update(lambda status: RunStatus.started("training", step, total))

    def saved(self, step: int) -> None:
        """Status: the checkpoint of `step` is on disk."""
        self._update(lambda status: replace(status, step=step))
        self.tell(CheckpointSaved(step))

    def finished(self, result: Mapping[str, Any]) -> None:
        """Status: everything is written. `result`: the content of result.json."""
        self._update(lambda status: status.ended(FINISHED, "finished"))
        self.close_trackers(Ended(FINISHED, "finished", result["steps"], final_numbers(result)))

    def failed(self, error: BaseException) -> None:
        """Status and log: the run ends with `error`."""
        if isinstance(error, UserError | WorkerFailed | Stopped | NonFinite):
            return self.ended(error.code, str(error), None)
        cause: Cause | None = WORKER_LOST if isinstance(error, WorkerLost) else None
        code = USAGE_ERROR if is_out_of_memory(error) else FAILED
        self.ended(code, f"{type(error).__name__}: {error}", cause)

    def ended(
        self, code: int, message: str, cause: Cause | None, patience: float | None = None
    ) -> None:
        """Status and train.log: the run did not finish. The console gets it with the exit.

        `patience`: seconds for trackers.
        """
        if self._world.is_main and (not self._claim.holds or self._folder.owner.lost):
            self._folder.write_refusal(code, message)
        self._update(lambda status: status.ended(code, message, cause))
        self.close_trackers(Ended(code, message), patience)
        self.log.to_file(f"{self._status.state}: {message}")

    def _update(self, change: Callable[[RunStatus], RunStatus]) -> None:
        if self._world.is_main and self._claim.holds:
            # Neither a full disk nor another owner may hide the original error.
            with self._lock, suppress(OSError, UserError):
                self._status = change(self._status)
                self._folder.write_status(self._status)
