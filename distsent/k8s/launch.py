"""The launcher's first process: waits for the workers, runs horovodrun, and saves on SIGTERM.

mpirun answers SIGTERM by killing its ranks a second later, but it passes SIGUSR1 on to all of
them: distsent.train then saves and exits with 75. Some failures would recur, such as a wrong job.
An MPIJob has no podFailurePolicy: a mark in /tmp lets the restarted container exit as before.
"""

import math
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil

from distsent.distributed.secrets import without_secrets
from distsent.errors import FAILED, STOPPED, UserError
from distsent.exit_policy import Decision, decide
from distsent.job import load_job
from distsent.runtime.run_folder import write_text
from distsent.runtime.run_status import ATTEMPT, RunStatus, status_of
from distsent.runtime.signals import SIGNALS

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
MPIRUN = ("mpirun", "orterun", "mpiexec")
MARK = Path("/tmp/distsent-failed")
PATIENCE, ANSWER = 60.0, 20.0  # seconds for the script that prints the hosts, and for a host
MOST_FAILURES, EARLY = 5, 60.0  # in a row, each within so many seconds of its start
Ending = tuple[Decision, list[str]]  # what to do after a run, and its hosts


class Training:
    """The training command while it runs. A stop signal requests a stop, before or during."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stop_requested = False
        for number in SIGNALS:
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
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child.pid] if child.name() in MPIRUN else []
        for pid in found or [self.process.pid]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def run(self, command: list[str], poll: Callable[[], None], every: float) -> Decision:
        """Run to the end. Calls `poll` every so many seconds."""
        if self.stop_requested:
            return decide(STOPPED)
        attempt, code = str(time.time_ns()), None
        env, unset, token_file = without_secrets({**os.environ, ATTEMPT: attempt})
        if unset:
            print(f"distsent: unset for the command: {', '.join(unset)}", flush=True)
        self.process = subprocess.Popen(command, env=env)
        if self.stop_requested:
            self.request_save()
        while code is None:
            try:
                code = self.process.wait(timeout=every)
            except subprocess.TimeoutExpired:
                poll()
        if token_file is not None:
            token_file.unlink(missing_ok=True)
        runs, code = read_statuses(command, attempt), code if code >= 0 else 128 - code
        return decide(code, *runs, stop_requested=self.stop_requested)


def read_statuses(command: list[str], attempt: str) -> list[RunStatus | None]:
    """What this start of the command's runs left. Empty for other commands."""
    try:
        job = load_job(*job_arguments(command))
    except (UserError, ValueError):
        return []
    folders = (Path(job.run.dir) / job.for_seed(seed).job.name for seed in job.seeds)
    return [status_of(folder, attempt) for folder in folders]


def job_arguments(command: Sequence[str]) -> tuple[str | None, list[str]]:
    """The job file, if any, and the overrides of a command with `distsent.train`."""
    words = command[list(command).index("distsent.train") + 1 :]
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    return next((word for word in words if "=" not in word), None), overrides


def launch(run: Callable[[Training], Ending], mark: Path = MARK) -> int:
    """Run the training command, unless it failed for good before. Returns the exit code."""
    if mark.exists():
        code, _, reason = mark.read_text().partition(" ")
        print(f"distsent: {reason}; not tried again: delete, fix and apply the MPIJob", flush=True)
        return int(code)
    check_user()
    decision, hosts = run(Training())
    if decision.action == "give_up":
        reason = decision.message or decision.cause.replace("_", " ")
        try:
            write_text(mark, f"{decision.code} {reason} (exit {decision.code})")
        finally:  # they would hold their GPUs while the launcher's restarts run out
            on_all(hosts, "kill -TERM 1")
    return decision.code


def check_user() -> None:
    """Raise UserError for a user without a name: ssh and sshd would not work."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        who = f"this pod runs as user {os.getuid()}, which the image does not know"
        raise UserError(f"{who}, so ssh cannot work: set runAsUser: 1000 (mpiuser)") from None


def run_on_named_hosts(training: Training, command: list[str], wait: float) -> Ending:
    hosts = hosts_of(command)
    missing = wait_for_hosts(hosts, wait, training)
    if missing and not training.stop_requested:
        text = "{} does not answer after {:.0f} s: {}; kubectl describe pod {}"
        lines = (text.format(host, wait, missing[host], host.split(".")[0]) for host in missing)
        raise UserError(*lines, code=FAILED)
    return training.run(command, lambda: None, 3600.0), hosts


def hosts_of(command: Sequence[str]) -> list[str]:
    """The hosts of `horovodrun ... --hostfile FILE` or `-H a:2,b:2`; none for other commands."""
    options = dict(pairwise(command))
    names = options.get("-H") or options.get("--hosts")
    path = options.get("--hostfile") or options.get("-hostfile")
    if names or not path:
        return [host.split(":")[0] for host in names.split(",")] if names else []
    try:
        lines = Path(path).read_text().splitlines()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the operator writes it for MPIJobs") from None
    hosts = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    if not hosts:
        raise UserError(f"{path} names no host; is spec.mpiReplicaSpecs.Worker.replicas 0?")
    return hosts


def wait_for_hosts(hosts: list[str], seconds: float, training: Training) -> dict[str, str]:
    """Wait until all hosts answer. Returns those that do not after `seconds` or at a stop."""
    end, attempt, missing = time.monotonic() + seconds, 0, unreachable(hosts)
    while missing and time.monotonic() < end and not training.stop_requested:
        if attempt in (0, 3) or attempt % 10 == 9:
            host, error = next(iter(missing.items()))
            count = f"{len(missing)} of {len(hosts)} workers"
            print(f"distsent: waiting for {count}: {host}: {error}", flush=True)
        time.sleep(min(2.0**attempt, 10.0))
        attempt, missing = attempt + 1, unreachable(list(missing))
    return missing


def unreachable(hosts: Sequence[str]) -> dict[str, str]:
    """The hosts that do not answer, and the reasons."""
    return on_all(hosts, "true")


def on_all(hosts: Sequence[str], command: str) -> dict[str, str]:
    """Run a command on hosts. Returns those where it failed, and the reasons."""
    with ThreadPoolExecutor(max_workers=min(32, len(hosts) or 1)) as pool:
        errors = pool.map(lambda host: run_on(host, command), hosts)
        return {host: error for host, error in zip(hosts, errors, strict=True) if error}


def run_on(host: str, command: str) -> str:
    """Run a command on a host. Empty if it succeeds, else the last line of ssh's errors."""
    words = [*SSH, host, command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, input="", timeout=ANSWER)
    except subprocess.TimeoutExpired:
        return f"no answer in {ANSWER:g} s"
    except OSError as error:
        return str(error)
    errors = done.stderr.strip().splitlines() or [f"ssh exit code {done.returncode}"]
    return errors[-1] if done.returncode else ""


@dataclass
class ScalingHosts:
    """The hosts that the operator's `script` prints, with `slots` processes on each.

    Every change costs a save and a start, but no step. Horovod elastic needs Gloo; this does not.
    """

    script: str
    slots: int
    min_np: int
    max_np: int | None
    poll: float  # seconds
    hosts: list[str] = field(default_factory=list)  # those of the run
    previous: list[str] = field(default_factory=list)  # those of the last look
    changed: bool = False

    def current(self) -> list[str]:
        """The hosts with running pods: as many as the limit on processes needs.

        An empty list if the script fails or does not answer: a run goes on with its hosts.
        """
        try:
            done = subprocess.run([self.script], capture_output=True, text=True, timeout=PATIENCE)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"distsent: {self.script}: {error}", flush=True)
            return []
        lines = done.stdout.splitlines() if done.returncode == 0 else []
        hosts = sorted({line.split(":")[0].strip() for line in lines if line.strip()})
        return hosts if self.max_np is None else hosts[: -(-self.max_np // self.slots)]

    def wait(self, seconds: float, training: Training) -> None:
        """Take the hosts that answer, as soon as they suffice."""
        end = time.monotonic() + seconds
        while True:
            hosts = self.current()
            missing = unreachable(hosts)
            self.hosts = [host for host in hosts if host not in missing]
            is_over = time.monotonic() > end or training.stop_requested
            if len(self.hosts) * self.slots >= self.min_np or is_over:
                self.changed, self.previous = False, []
                return
            time.sleep(min(5.0, self.poll))

    def look(self, training: Training) -> None:
        """Request a save if the hosts have changed: seen twice, as a pod may be just starting."""
        hosts = self.current()
        is_stable, self.previous = hosts == self.previous, hosts
        if self.changed or not hosts or hosts == self.hosts or not is_stable:
            return
        if len(hosts) * self.slots >= self.min_np and not unreachable(hosts):
            self.changed, change = True, f"{len(self.hosts)} hosts have become {len(hosts)}"
            print(f"distsent: {change}: saving, to resume on those", flush=True)
            training.request_save()

    def run(self, training: Training, command: list[str], wait: float) -> Ending:
        """Run to the end on whatever hosts there are."""
        failures = 0
        while True:
            self.wait(wait, training)
            count, places = len(self.hosts), ",".join(f"{h}:{self.slots}" for h in self.hosts)
            if count * self.slots < self.min_np and not training.stop_requested:
                found = f"{count} hosts x {self.slots} processes after {wait:.0f} s"
                raise UserError(f"{found}, --min-np asks for {self.min_np}", code=FAILED)
            print(f"distsent: running on {count} hosts: {' '.join(self.hosts)}", flush=True)
            size, started = min(count * self.slots, self.max_np or math.inf), time.monotonic()
            words = [command[0], "-np", str(size), "-H", places, *command[1:]]
            decision = training.run(words, lambda: self.look(training), self.poll)
            if decision.action in ("done", "give_up") or training.stop_requested:
                return decision, self.hosts
            if decision.action == "requeue" or self.changed:
                failures = 0
                continue
            failures = failures + 1 if time.monotonic() - started < EARLY else 1
            row = f"{failures} failures in a row within {EARLY:.0f} s of the start"
            print(f"distsent: the run ended with {decision.code}; {row}", flush=True)
            if failures >= MOST_FAILURES:
                return decision, self.hosts
            time.sleep(min(self.poll, 10.0))
