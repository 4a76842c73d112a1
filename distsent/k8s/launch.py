"""The launcher's first process: waits for the workers, runs horovodrun, and saves on SIGTERM.

mpirun answers SIGTERM by killing its ranks a second later, but it passes SIGUSR1 on to all of
them: distsent.train then saves and exits with 75. Some failures would be the same the next time: a
wrong job, a loss that is not finite. An MPIJob has no podFailurePolicy to say so. A mark in the
pod's /tmp does it instead: the restarted container ends at once, with the same code.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from distsent.errors import FAILED, STOPPED, UserError
from distsent.exit_policy import Decision, decide
from distsent.job import load_job
from distsent.k8s.hosts import check_user, hosts_of, job_arguments, run_on, wait_for_hosts
from distsent.runtime.run_status import ATTEMPT, FILE, RunStatus, read_status

MPIRUN = ("mpirun", "orterun", "mpiexec")
MARK = Path("/tmp/distsent-failed")


class Training:
    """The training command while it runs. SIGTERM and SIGINT request a stop, before or during."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stop_requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.stop_requested = True
        self.request_save()

    def request_save(self) -> None:
        """Ask all ranks to save and exit."""
        if self.process is None or self.process.poll() is not None:
            return
        # horovodrun runs mpirun in a shell, and a shell passes no signal on. Before there is an
        # mpirun, there is nothing to save.
        for pid in descendants(self.process.pid, MPIRUN) or [self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def run(self, command: list[str], poll: Callable[[], None], every: float) -> Decision:
        """Run to the end. Calls `poll` every so many seconds."""
        if self.stop_requested:
            return decide(STOPPED)
        attempt = str(time.time_ns())
        self.process = subprocess.Popen(command, env={**os.environ, ATTEMPT: attempt})
        if self.stop_requested:
            self.request_save()
        while True:
            try:
                code = self.process.wait(timeout=every)
                break
            except subprocess.TimeoutExpired:
                poll()
        runs = read_statuses(command, attempt)
        code = code if code >= 0 else 128 - code
        return decide(code, *runs, stop_requested=self.stop_requested)


def descendants(pid: int, names: tuple[str, ...]) -> list[int]:
    """The descendants of a process with one of these names."""
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.name() in names else []
    return found


def read_statuses(command: list[str], attempt: str) -> list[RunStatus | None]:
    """What this start of the command's runs left in status.json. Empty for other commands."""
    try:
        job = load_job(*job_arguments(command))
    except (UserError, ValueError):
        return []
    folders = [Path(job.run.dir) / job.for_seed(seed).job.name for seed in job.seeds]
    runs = [read_status(folder / FILE) for folder in folders]
    return [run if run and run.attempt == attempt else None for run in runs]


Ending = tuple[Decision, list[str]]  # what to do after a run, and its hosts


def launch(run: Callable[[Training], Ending], mark: Path = MARK) -> int:
    """Run the training command, unless it failed for good before. Returns the exit code."""
    if mark.exists():
        code, _, reason = mark.read_text().partition(" ")
        fix = "delete this MPIJob, fix it, and apply it again"
        print(f"distsent: {reason.strip()}; not tried again: {fix}", flush=True)
        return int(code)
    check_user()
    decision, hosts = run(Training())
    if decision.action == "give_up":
        reason = decision.message or decision.cause.replace("_", " ")
        mark.write_text(f"{decision.code} {reason} (exit {decision.code})")
        for host in hosts:  # they would hold their GPUs while the launcher's restarts run out
            run_on(host, "kill -TERM 1")
    return decision.code


def run_on_named_hosts(training: Training, command: list[str], wait: float) -> Ending:
    hosts = hosts_of(command)
    missing = wait_for_hosts(hosts, wait, lambda: training.stop_requested)
    if missing and not training.stop_requested:
        text = "{} does not answer after {:.0f} s: {}; kubectl describe pod {}"
        lines = (text.format(host, wait, missing[host], host.split(".")[0]) for host in missing)
        raise UserError(*lines, code=FAILED)
    return training.run(command, lambda: None, 3600.0), hosts
