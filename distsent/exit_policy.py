"""What to do after a run has ended: one policy for SLURM, Kubernetes and shell loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from distsent.errors import FINISHED, NON_FINITE, STOPPED, USAGE_ERROR

if TYPE_CHECKING:
    from distsent.runtime.run_status import RunStatus

NON_RETRYABLE = (USAGE_ERROR, NON_FINITE)  # the same command would end in the same way
# Only a run itself ends with these codes, so a launcher that ends with one has passed it on. Other
# codes may hide the run's own: horovodrun over Gloo and torchrun end with 1 whatever happened, and
# srun and mpirun may end with the code of a rank that was killed because another one had ended.
PASSED_ON = (FINISHED, STOPPED, *NON_RETRYABLE)
# 128 + signal of a run that received a stop request before it could handle it, or that was killed
# before it had saved: HUP, INT, KILL, USR1, USR2, TERM, XCPU.
SIGNALED = (129, 130, 137, 138, 140, 143, 152)
CRASHED = 139  # 128 + SIGSEGV


@dataclass(frozen=True)
class Decision:
    """What to do next.

    `action`: `done`; `retry` (counts as a failure, so bound it); `requeue` (stopped and saved, not
    a failure: start the same command again); `give_up` (the same command would fail again).
    `code`: the exit code of the run itself, which a launcher may have hidden. `cause`: finished,
    stopped, no_progress (stopped by a time limit before it had saved a step), usage_error,
    non_finite, crashed_at_start (a segmentation fault before the run was up: try again at once),
    worker_died, worker_lost (its node may be gone) or failed.
    """

    action: Literal["done", "retry", "requeue", "give_up"]
    code: int
    cause: str
    message: str


def decide(
    code: int, *runs: RunStatus | None, stop_requested: bool = False, out_of_time: bool = False
) -> Decision:
    """The next action after a launcher ended with `code`.

    `runs`: for each run of the command, in the order of their training, the status that this start
    left in `status.json`, or None if it left none. `stop_requested`: whether the launcher received
    a stop request (a signal, a preemption, a time limit). `out_of_time`: whether a time limit was
    the reason; then a stop without progress counts as a failure, or the run would never finish.
    """
    left = [run for run in runs if run is not None]
    last = left[-1] if left else None
    finished = bool(left) and all(run is not None and run.state == "finished" for run in runs)
    if finished and code not in PASSED_ON:
        code = FINISHED
    elif last is not None and last.code and code not in PASSED_ON:
        code = last.code
    message = message_of(last)
    if code == FINISHED:
        return Decision("done", code, "finished", message)
    if code in NON_RETRYABLE:
        cause = "usage_error" if code == USAGE_ERROR else "non_finite"
        return Decision("give_up", code, cause, message)
    if code == STOPPED or (code in SIGNALED and stop_requested):
        if out_of_time and not any(run.progressed for run in left):
            return Decision("retry", STOPPED, "no_progress", message)
        return Decision("requeue", STOPPED, "stopped", message)
    if code == CRASHED and last is None and not stop_requested:
        return Decision("retry", code, "crashed_at_start", message)
    return Decision("retry", code, failure_of(last), message)


def failure_of(last: RunStatus | None) -> str:
    """The cause of a failure. A run that could not report one has lost its main worker."""
    if last is None or last.state == "finished":
        return "failed"
    return "worker_lost" if last.state == "running" else last.cause or "failed"


def message_of(last: RunStatus | None) -> str:
    """One line about how the run ended; empty if it left no status."""
    if last is None:
        return ""
    if last.state != "running":
        return last.message
    of = f" of {last.of}" if last.of else ""
    return f"ended without a report; saved up to step {last.step}{of}"
