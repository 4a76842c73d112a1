"""What to do after a run's processes have ended: one policy for SLURM, Kubernetes and shell loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from distsent.errors import FAILED, FINISHED, NON_FINITE, STOPPED, USAGE_ERROR

if TYPE_CHECKING:
    from distsent.runtime.run_status import RunStatus

DONE, RETRY, REQUEUE, GIVE_UP = "done", "retry", "requeue", "give_up"

NON_RETRYABLE = (USAGE_ERROR, NON_FINITE)  # the same command would end in the same way
# 128 + signal: asked to stop (HUP, INT, USR1, USR2, TERM) before the program could listen.
SIGNALED = (129, 130, 138, 140, 143)


@dataclass(frozen=True)
class Decision:
    """`action`: done; retry (counts as a failure); requeue (saved, does not count); give_up.

    `code`: the exit code of the run itself, which a launcher may have hidden. `worker_lost`: a
    worker died or fell silent, or rank 0 was killed: its node may be gone.
    """

    action: str
    code: int
    message: str
    worker_lost: bool = False


def decide(code: int, status: RunStatus | None, *, stop_requested: bool = False) -> Decision:
    """The next action after a launcher ended with `code`.

    `status`: what this start left in `status.json`; None where it left nothing. `stop_requested`:
    whether the launcher was asked to stop (a signal, a preemption, a time limit). A stop that
    saved no further step counts as a failure: requeueing for ever would not finish the run.
    """
    ended = status is not None and status.code is not None
    if code != FINISHED and status is not None and status.code is not None:
        code = status.code  # horovodrun over Gloo and torchrun end with 1 whatever happened
    message = status.message if status is not None and ended else f"exit code {code}"
    if code == FINISHED:
        return Decision(DONE, code, message)
    if code in NON_RETRYABLE:
        return Decision(GIVE_UP, code, message)
    if code == STOPPED or (code in SIGNALED and stop_requested):
        if status is None or status.progressed:
            return Decision(REQUEUE, STOPPED, message)
        why = f"{message}; stopped before it saved a further step"
        return Decision(RETRY, STOPPED, why)
    lost = status is not None and (status.cause == "worker_lost" or not ended)
    return Decision(RETRY, code or FAILED, message, worker_lost=lost)
