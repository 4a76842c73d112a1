"""`status.json` in a run folder: how a run stands, for scripts and launchers to read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from distsent.errors import FINISHED, STOPPED

# Set by a launcher for each start, so that it can tell this start's status from an earlier one's.
ATTEMPT = "DISTSENT_ATTEMPT"
RUNNING, STOPPED_STATE, FAILED_STATE, FINISHED_STATE = "running", "stopped", "failed", "finished"
WORKER_LOST = "worker_lost"


@dataclass(frozen=True)
class RunStatus:
    """How a run stands. After SIGKILL `state` stays `running`: read it with the exit code.

    `code`: exit code, None while running. `step` of `of`: the newest step that is known to be
    saved. `retry`: whether the same command may get further. `cause`: `worker_lost` where a worker
    died or fell silent. `resumed_from`: the step at which this start began. `attempt`: the
    launcher's name for this start.
    """

    state: str
    message: str = ""
    code: int | None = None
    step: int = 0
    of: int | None = None
    retry: bool = True
    cause: str | None = None
    resumed_from: int = 0
    attempt: str | None = None

    @property
    def progressed(self) -> bool:
        """Whether this start saved a step that earlier ones had not."""
        return self.step > self.resumed_from

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def status_of_exit(code: int) -> str:
    """The state that belongs to an exit code."""
    return {FINISHED: FINISHED_STATE, STOPPED: STOPPED_STATE}.get(code, FAILED_STATE)


def read_status(path: Path) -> RunStatus | None:
    """The status in the file `path`; None where there is none that can be read."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(RunStatus)}
        return RunStatus(**{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def own_attempt() -> str | None:
    """The launcher's name for this start of the run."""
    return os.environ.get(ATTEMPT)
