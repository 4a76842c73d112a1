"""What the main worker reports of a run: log lines and `status.json`. Other workers are silent."""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from distsent.distributed.world import WorkerLost, World
from distsent.errors import FAILED, FINISHED, NonFinite, Stopped, UserError, WorkerFailed
from distsent.runtime.checkpoint import list_checkpoints, step_of
from distsent.runtime.log import Log, RunLog
from distsent.runtime.run_folder import disk_errors_as_user_errors
from distsent.runtime.run_status import WORKER_LOST, Cause, RunStatus
from distsent.training.resume import RunClaim


class RunReport:
    """The log opens when it is known where the run resumes. Earlier lines wait for that.

    `status.json` is written only while `claim` holds the folder.
    """

    def __init__(self, world: World, claim: RunClaim) -> None:
        self.log: Log = Log()
        self._folder, self._world, self._claim = claim.folder, world, claim
        self._waiting: list[str] = []  # lines from before the log opened
        self._status = RunStatus()
        self._lock = threading.Lock()  # checkpoints and heartbeats report from their own threads

    def info(self, line: str | None) -> None:
        """Log a line, if there is one."""
        if line and isinstance(self.log, RunLog):
            self.log.info(line)
        elif line:
            self._waiting.append(line)

    def open_log(self, step: int, evaluated: int, total: int) -> None:
        """Open the log of a run at `step`, on the main worker."""
        pages = self._claim.job.log.tensorboard
        with disk_errors_as_user_errors(self._folder.path):
            self.log = RunLog(self._folder, step, evaluated, total, pages)
        for line in self._waiting:
            self.log.info(line)

    def close_log(self) -> None:
        self.log.close()
        self.log, self._waiting = Log(), []

    def starting(self) -> None:
        """Status: model and dataset are being prepared."""
        if self._status.message and self._status.code is None:
            return  # after a rejoin, this start of the run continues
        found = list_checkpoints(self._folder.checkpoints)
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

    def finished(self) -> None:
        """Status: everything is written."""
        self._update(lambda status: status.ended(FINISHED, "finished"))

    def failed(self, error: BaseException) -> None:
        """Status and log: the run ends with `error`."""
        if isinstance(error, UserError | WorkerFailed | Stopped | NonFinite):
            return self.ended(error.code, str(error), None)
        cause: Cause | None = WORKER_LOST if isinstance(error, WorkerLost) else None
        self.ended(FAILED, f"{type(error).__name__}: {error}", cause)

    def ended(self, code: int, message: str, cause: Cause | None) -> None:
        """Status and train.log: the run did not finish. The console gets it with the exit."""
        self._update(lambda status: status.ended(code, message, cause))
        self.log.to_file(f"{self._status.state}: {message}")

    def _update(self, change: Callable[[RunStatus], RunStatus]) -> None:
        if self._world.is_main and self._claim.holds:
            with self._lock, suppress(OSError):  # a full disk must not hide the original error
                self._status = change(self._status)
                self._folder.write_status(self._status)
