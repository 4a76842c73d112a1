"""The launcher's first process: waits for the workers, runs horovodrun, turns SIGTERM into a saved run.

mpirun answers SIGTERM by killing its ranks a second later, but hands SIGUSR1 on to all of them; distsent.train then
saves and leaves with 75. Exit 2 (the job is wrong) and 3 (non-finite) would be the same the next time. An MPIJob has no
podFailurePolicy to say so, hence a mark in the pod's /tmp: the restarted container ends at once, with the same code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from distsent.errors import FAILED, FINISHED, NON_FINITE, STOPPED, USAGE_ERROR
from distsent.k8s import hosts
from distsent.k8s.processes import below

HOPELESS = (USAGE_ERROR, NON_FINITE)
MPIRUN = ("mpirun", "orterun", "mpiexec")
MARK = Path("/tmp/distsent-failed")
TRIES = 5  # elastic: runs in a row that may fail within MINUTE seconds of their start
MINUTE = 60.0


@dataclass(frozen=True)
class Elastic:
    """Run on whatever hosts `script` prints: each change of them stops the run, which carries on with the new ones."""

    script: str
    slots: int
    fewest: int
    most: int | None
    poll: float

    def command(self, command: Sequence[str], names: Sequence[str]) -> list[str]:
        size = min(len(names) * self.slots, self.most or len(names) * self.slots)
        return [
            command[0],
            "-np",
            str(size),
            "-H",
            ",".join(f"{name}:{self.slots}" for name in names),
            *command[1:],
        ]

    def usable(self, names: Sequence[str]) -> list[str]:
        """As many of the hosts as the limit on processes needs."""
        return list(names) if self.most is None else list(names)[: -(-self.most // self.slots)]


class Child:
    """The command while it runs, and a stop that was asked for, before or during."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None
        self.stopped = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.stopped = True
        self.save()

    def save(self) -> None:
        """Ask all ranks to save and leave."""
        if self.process is None or self.process.poll() is not None:
            return
        # horovodrun has a shell run mpirun, and a shell passes nothing on. Before there is an mpirun there is nothing to save.
        mpiruns = [one.pid for one in below(self.process.pid) if one.name in MPIRUN]
        for pid in mpiruns or [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def run(self, command: Sequence[str], look: Callable[[], None], every: float) -> int:
        """Run to the end, calling `look` every so many seconds; the exit code, 128 + signal for a death by signal."""
        if self.stopped:
            return STOPPED
        self.process = subprocess.Popen(command)
        if self.stopped:
            self.save()
        while True:
            try:
                code = self.process.wait(timeout=every)
                return code if code >= 0 else 128 - code
            except subprocess.TimeoutExpired:
                look()


def launch(
    command: Sequence[str], wait: float, elastic: Elastic | None = None, mark: Path = MARK
) -> int:
    if mark.exists():
        code, _, why = mark.read_text().partition(" ")
        print(
            f"distsent: {why.strip()}; not tried again: delete this job, mend it, apply it anew",
            flush=True,
        )
        return int(code)
    hosts.check_user()
    child = Child()
    end = follow(child, command, wait, elastic) if elastic else once(child, command, wait)
    if end in HOPELESS:
        mark.write_text(
            f"{end} {'the job is wrong' if end == USAGE_ERROR else 'training became non-finite'} (exit {end})"
        )
    return end


def once(child: Child, command: Sequence[str], wait: float) -> int:
    names = hosts.hosts_of(command)
    missing = hosts.wait_for(names, wait, lambda: child.stopped)
    if child.stopped:
        return STOPPED
    if missing:
        for host, why in missing.items():
            print(
                f"distsent: {host} does not answer after {wait:.0f} s: {why}; kubectl describe pod {host.split('.')[0]}",
                flush=True,
            )
        return FAILED
    code = settle(child, child.run(command, lambda: None, 3600.0))
    if code in HOPELESS:
        release(names)
    return code


def settle(child: Child, code: int) -> int:
    """The exit code of a run that may have been asked to stop before it could save: nothing is lost then."""
    return STOPPED if child.stopped and code > 128 else code


def release(names: Sequence[str]) -> None:
    """End the workers: a job that will not be tried again holds no GPUs while its launcher's restarts run out."""
    for name in names:
        subprocess.run(
            [*hosts.SSH, name, "kill -TERM 1"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=20,
        )


def follow(child: Child, command: Sequence[str], wait: float, elastic: Elastic) -> int:
    """Run on the hosts there are; stop and start again when they change."""
    failures = 0
    while True:
        names = gather(child, wait, elastic)
        if child.stopped:
            return STOPPED
        if len(names) * elastic.slots < elastic.fewest:
            print(
                f"distsent: {len(names)} hosts x {elastic.slots} processes after {wait:.0f} s, --min-np asks for {elastic.fewest}; "
                "kubectl get pods shows what they wait for",
                flush=True,
            )
            return FAILED
        print(f"distsent: running on {len(names)} hosts: {' '.join(names)}", flush=True)
        changed = Changed(elastic, names, child)
        started = time.monotonic()
        code = settle(child, child.run(elastic.command(command, names), changed.look, elastic.poll))
        if code in (FINISHED, *HOPELESS) or child.stopped:
            if code in HOPELESS:
                release(names)
            return code
        if code == STOPPED or changed.seen:
            failures = 0
            continue
        failures = failures + 1 if time.monotonic() - started < MINUTE else 1
        if failures >= TRIES:
            print(
                f"distsent: {failures} failures in a row, each within {MINUTE:.0f} s of its start",
                flush=True,
            )
            return code
        print(
            f"distsent: the run ended with {code}; carrying on with the hosts that answer",
            flush=True,
        )
        time.sleep(min(elastic.poll, 10.0))


def gather(child: Child, wait: float, elastic: Elastic) -> list[str]:
    """The hosts to run on: those that are discovered and answer, as soon as they are enough."""
    end = time.monotonic() + wait
    while True:
        names = elastic.usable(hosts.discover(elastic.script))
        missing = hosts.silent(names)
        names = [name for name in names if name not in missing]
        if len(names) * elastic.slots >= elastic.fewest or time.monotonic() > end or child.stopped:
            return names
        time.sleep(min(5.0, elastic.poll))


class Changed:
    """Whether the hosts have become others than the run's; a change must be seen twice, a pod may be just starting."""

    def __init__(self, elastic: Elastic, names: Sequence[str], child: Child) -> None:
        self.elastic, self.names, self.child = elastic, list(names), child
        self.seen = False
        self._before: list[str] = []

    def look(self) -> None:
        now = self.elastic.usable(hosts.discover(self.elastic.script))
        if self.seen or not now or now == self.names or now != self._before:
            self._before = now
            return
        if hosts.silent(now) or len(now) * self.elastic.slots < self.elastic.fewest:
            return
        self.seen = True
        print(
            f"distsent: {len(self.names)} hosts have become {len(now)}: saving, to carry on with those",
            flush=True,
        )
        self.child.save()
