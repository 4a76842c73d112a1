"""Starts a training command again inside its launcher, as long as that gets it further.

Each exit of the launcher counts against `backoffLimit`, which never resets, and the pauses grow.
So a run that loses a worker now and then would fail in the end, although it saved each time.
"""

import time
from collections.abc import Callable
from dataclasses import replace

from distsent.exit_policy import Decision
from distsent.pods.hosts import out_of_memory
from distsent.pods.training_command import Training

Ending = tuple[Decision, list[str]]  # what to do after a run, and its hosts
MOST_IDLE = 5  # starts in a row without progress
PAUSE = 2.0  # seconds, times the starts in a row without progress; a lost worker's pod still ends


def keep_running(training: Training, start: Callable[[], Ending], is_elastic: bool) -> Ending:
    """Start until the run is done, cannot succeed, was asked to stop, or does not get further.

    A failure before the first progress ends it at once, unless other hosts may help (elastic).
    """
    idle, may_recover = 0, is_elastic
    while True:
        decision, hosts = start()
        if decision.action in ("done", "give_up") or training.stop_requested:
            return decision, hosts
        if decision.action == "retry":  # mpirun says no more than "signal 9"
            for line in out_of_memory(hosts):
                print(f"distsent: {line}", flush=True)
        idle = 0 if training.progressed else idle + 1
        may_recover = may_recover or training.progressed
        is_last = idle >= MOST_IDLE or (decision.action != "requeue" and not may_recover)
        row = f", {idle} in a row without progress" if idle else ""
        again = "" if is_last else "; starting it again"
        print(f"distsent: the run ended with {decision.code}{row}{again}", flush=True)
        if is_last:
            is_stuck = decision.action == "requeue"
            stuck = replace(decision, action="retry", cause="no_progress")
            return stuck if is_stuck else decision, hosts
        time.sleep(PAUSE * (idle + 1))
