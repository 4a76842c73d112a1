"""The launcher's first process: waits for the workers, runs horovodrun, and saves on SIGTERM.

Some failures would recur, such as a wrong job. An MPIJob has no podFailurePolicy: a mark in /tmp
lets the restarted container exit as before, with the same reason.
"""

import os
import pwd
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from distsent.errors import FAILED, STOPPED, UserError
from distsent.pods.hosts import advice, hosts_of, on_all, wait_for_hosts, with_size
from distsent.pods.restarts import Ending, keep_running
from distsent.pods.training_command import LOOK, Training
from distsent.runtime.run_folder import write_text

MARK = Path("/tmp/distsent-failed")
TERMINATION_LOG = Path("/dev/termination-log")  # what `kubectl describe pod` shows


def launch(
    run: Callable[[Training], Ending], mark: Path = MARK, *, keep_workers: bool = False
) -> int:
    """Run the training command, unless it failed for good before. Returns the exit code.

    `keep_workers`: whether something else stops the workers of a job that failed for good.
    """
    if mark.exists():
        code, _, reason = mark.read_text().partition(" ")
        lines = f"{reason}; not tried again: delete, fix and apply the job".splitlines()
        print("".join(f"distsent: {line}\n" for line in lines), end="", flush=True)
        report(reason)
        return int(code)
    check_user()
    decision, hosts = run(Training())
    if decision.action == "give_up":
        cause = decision.message or decision.cause.replace("_", " ")
        reason = f"{cause} (exit {decision.code})"
        report(reason)
        try:
            write_text(mark, f"{decision.code} {reason}")
        finally:  # they would hold their GPUs while the launcher's restarts run out
            if not keep_workers:
                on_all(hosts, "kill -TERM 1")
    # A TrainJob's restarts after 75 are not counted, so starts without progress need another code.
    is_stuck = decision.code == STOPPED and decision.action == "retry"
    return FAILED if is_stuck else decision.code


def report(reason: str) -> None:
    """Leave the reason in the pod's status: its log is deleted earlier. Only in a container."""
    with suppress(OSError):
        if TERMINATION_LOG.is_file():
            TERMINATION_LOG.write_text(reason, encoding="utf-8")


def check_user() -> None:
    """Raise UserError for a user without a name: ssh and sshd would not work."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        who = f"this pod runs as user {os.getuid()}, which the image does not know"
        raise UserError(f"{who}, so ssh cannot work: set runAsUser: 1000 (mpiuser)") from None


def run_on_named_hosts(training: Training, command: list[str], wait: float) -> Ending:
    hosts = hosts_of(command)
    sized = with_size(command, hosts)

    def start() -> Ending:
        missing = wait_for_hosts([*hosts], wait, lambda: training.stop_requested)
        if missing and not training.stop_requested:
            text = "{} does not answer after {:.0f} s: {}; {}"
            lines = (text.format(host, wait, missing[host], advice(host)) for host in missing)
            raise UserError(*lines, code=FAILED)
        return training.run(sized, lambda: None, LOOK), [*hosts]

    return keep_running(training, start, is_elastic=False)
