"""Trains on hosts that come and go: every change stops the run and relaunches it.

This is not Horovod elastic, which needs Gloo. A change costs a save and a start, but no step.
"""

import time
from dataclasses import dataclass, field

from distsent.errors import FAILED, UserError
from distsent.k8s.hosts import discover_hosts, unreachable
from distsent.k8s.launch import Ending, Training

MOST_FAILURES, EARLY = 5, 60.0  # in a row, each within so many seconds of its start


@dataclass
class ScalingHosts:
    """The hosts that the operator's `script` prints, with `slots` processes on each."""

    script: str
    slots: int
    min_np: int
    max_np: int | None
    poll: float  # seconds
    hosts: list[str] = field(default_factory=list)  # those of the run
    previous: list[str] = field(default_factory=list)  # those of the last look
    changed: bool = False

    def current(self) -> list[str]:
        """As many of the hosts as the limit on processes needs."""
        hosts = discover_hosts(self.script)
        return hosts if self.max_np is None else hosts[: -(-self.max_np // self.slots)]

    def suffice(self, hosts: list[str]) -> bool:
        return len(hosts) * self.slots >= self.min_np

    def wait(self, seconds: float, training: Training) -> None:
        """Take the hosts that answer, as soon as they suffice."""
        end = time.monotonic() + seconds
        while True:
            hosts = self.current()
            missing = unreachable(hosts)
            self.hosts = [host for host in hosts if host not in missing]
            if self.suffice(self.hosts) or time.monotonic() > end or training.stop_requested:
                self.changed, self.previous = False, []
                return
            time.sleep(min(5.0, self.poll))

    def command(self, command: list[str]) -> list[str]:
        size = min(len(self.hosts) * self.slots, self.max_np or len(self.hosts) * self.slots)
        places = ",".join(f"{host}:{self.slots}" for host in self.hosts)
        return [command[0], "-np", str(size), "-H", places, *command[1:]]

    def look(self, training: Training) -> None:
        """Request a save if the hosts have changed: seen twice, as a pod may be just starting."""
        hosts = self.current()
        is_stable, self.previous = hosts == self.previous, hosts
        if self.changed or not hosts or hosts == self.hosts or not is_stable:
            return
        if self.suffice(hosts) and not unreachable(hosts):
            self.changed = True
            change = f"{len(self.hosts)} hosts have become {len(hosts)}"
            print(f"distsent: {change}: saving, to resume on those", flush=True)
            training.request_save()


def relaunch_on_change(
    training: Training, command: list[str], wait: float, scaling: ScalingHosts
) -> Ending:
    """Run to the end on whatever hosts there are."""
    failures = 0
    while True:
        scaling.wait(wait, training)
        count = len(scaling.hosts)
        if not scaling.suffice(scaling.hosts) and not training.stop_requested:
            found = f"{count} hosts x {scaling.slots} processes after {wait:.0f} s"
            hint = "kubectl get pods shows the pods"
            raise UserError(f"{found}, --min-np asks for {scaling.min_np}; {hint}", code=FAILED)
        print(f"distsent: running on {count} hosts: {' '.join(scaling.hosts)}", flush=True)
        started, words = time.monotonic(), scaling.command(command)
        decision = training.run(words, lambda: scaling.look(training), scaling.poll)
        if decision.action in ("done", "give_up") or training.stop_requested:
            return decision, scaling.hosts
        if decision.action == "requeue" or scaling.changed:
            failures = 0
            continue
        failures = failures + 1 if time.monotonic() - started < EARLY else 1
        count_text = f"{failures} failures in a row within {EARLY:.0f} s of the start"
        print(f"distsent: the run ended with {decision.code}; {count_text}", flush=True)
        if failures >= MOST_FAILURES:
            return decision, scaling.hosts
        time.sleep(min(scaling.poll, 10.0))
