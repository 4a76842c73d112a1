"""`status.json` in a run folder: the state of a run, for scripts and launchers to read."""

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Final, Literal, Self

from distsent.errors import FINISHED, STOPPED
from distsent.exit_policy import NON_RETRYABLE

FILE = "status.json"  # in the run folder
# A launcher sets it to a new name for each start, so that a status of an earlier one is ignored.
ATTEMPT = "DISTSENT_ATTEMPT"
START = "DISTSENT_START"  # what the starts of a batch job have in common: see `run.resume`
WORKER_DIED: Final = "worker_died"  # its process ended
WORKER_LOST: Final = "worker_lost"  # it fell silent, or a collective failed: its node may be gone
# One of them appears where a single worker ended the run.
Cause = Literal["worker_died", "worker_lost"]
State = Literal["running", "stopped", "failed", "finished"]


@dataclass(frozen=True)
class RunStatus:
    """The state of a run. After SIGKILL `state` stays `running`: read it with the exit code.

    `code`: exit code, None while running. `step`: the newest saved step, of `of` steps. `retry`:
    whether the same command may get further. `resumed_from`: the saved step at which this start of
    the run began. `attempt`: the launcher's name for this start.
    """

    state: State = "running"
    message: str = ""
    code: int | None = None
    step: int = 0
    of: int | None = None
    retry: bool = True
    cause: Cause | None = None
    resumed_from: int = 0
    attempt: str | None = None

    @classmethod
    def started(cls, message: str, step: int = 0, of: int | None = None) -> Self:
        """The status of a run that starts or resumes at `step`."""
        attempt = os.environ.get(ATTEMPT)
        return cls(message=message, step=step, of=of, resumed_from=step, attempt=attempt)

    def ended(self, code: int, message: str, cause: Cause | None = None) -> Self:
        """The status after the run has ended with exit code `code`."""
        ends: dict[int, State] = {FINISHED: "finished", STOPPED: "stopped"}
        state, retry = ends.get(code, "failed"), code not in (FINISHED, *NON_RETRYABLE)
        return replace(self, state=state, code=code, message=message, retry=retry, cause=cause)

    @property
    def progressed(self) -> bool:
        """Whether this start of the run saved a step that earlier ones had not."""
        return self.step > self.resumed_from

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


def refusal_file(run: Path) -> Path:
    """Beside a run folder: how a start ended that never owned the folder."""
    return run.absolute().with_name(f".{run.absolute().name}.refused.json")


def status_of(run: Path, attempt: str | None) -> RunStatus | None:
    """What the start `attempt` left, in the run folder or beside it. None if it left nothing.

    Without a name of the start, the status in the run folder, whoever wrote it.
    """
    found = read_status(run / FILE)
    if attempt is None or (found is not None and found.attempt == attempt):
        return found
    refused = read_status(refusal_file(run))
    return refused if refused is not None and refused.attempt == attempt else None


def read_status(path: Path) -> RunStatus | None:
    """The status in the file `path`. None if the file is missing or not a status."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(RunStatus)}
        return RunStatus(**{key: value for key, value in values.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
