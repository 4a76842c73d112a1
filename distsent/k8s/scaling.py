"""Runs a job on hosts that come and go: every change stops the run and relaunches it.

This is not Horovod elastic, which needs Gloo. A change costs a save and a start, but no step.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from distsent.errors import FAILED, UserError
from distsent.exit_policy import Decision
from distsent.k8s.hosts import discover_hosts, unreachable
from distsent.k8s.launch import Training

MOST_FAILURES, EARLY = 5, 60.0  # in a row, each within so many seconds of its start


@dataclass(frozen=True)
class ScalingHosts:
    """The hosts that the operator's `script` prints, with `slots` processes on each."""

    script: str
    slots: int
    min_np: int
    max_np: int | None
    poll: float  # seconds

    def current(self) -> list[str]:
        """As many of the hosts as the limit on processes needs."""
        hosts = discover_hosts(self.script)
        return hosts if self.max_np is None else hosts[: -(-self.max_np // self.slots)]

    def suffice(self, hosts: Sequence[str]) -> bool:
        return len(hosts) * self.slots >= self.min_np

    def wait(self, seconds: float, training: Training) -> list[str]:
        """The hosts that answer, as soon as they suffice."""
        end = time.monotonic() + seconds
        while True:
            hosts = self.current()
            missing = unreachable(hosts)
            hosts = [host for host in hosts if host not in missing]
            if self.suffice(hosts) or time.monotonic() > end or training.stop_requested:
                return hosts
            time.sleep(min(5.0, self.poll))

    def command(self, command: Sequence[str], hosts: Sequence[str]) -> list[str]:
        size = min(len(hosts) * self.slots, self.max_np or len(hosts) * self.slots)
        places = ",".join(f"{host}:{self.slots}" for host in hosts)
        return [command[0], "-np", str(size), "-H", places, *command[1:]]


class HostWatch:
    """Requests a save when the hosts are no longer those of the run."""

    def __init__(self, scaling: ScalingHosts, hosts: list[str], training: Training) -> None:
        self.scaling, self.hosts, self.training = scaling, hosts, training
        self.previous, self.changed = hosts, False

    def poll(self) -> None:
        """Look once. A change must be seen twice: a pod may be just starting."""
        hosts, previous = self.scaling.current(), self.previous
        self.previous = hosts
        is_stable = hosts == previous and self.scaling.suffice(hosts) and hosts
        if self.changed or hosts == self.hosts or not is_stable or unreachable(hosts):
            return
        self.changed = True
        change = f"{len(self.hosts)} hosts have become {len(hosts)}"
        print(f"distsent: {change}: saving, to resume on those", flush=True)
        self.training.request_save()


def relaunch_on_change(
    training: Training, command: Sequence[str], wait: float, scaling: ScalingHosts
) -> tuple[Decision, list[str]]:
    """Run to the end on whatever hosts there are. Returns how it ended, and its last hosts."""
    failures = 0
    while failures < MOST_FAILURES:
        hosts = scaling.wait(wait, training)
        if not scaling.suffice(hosts) and not training.stop_requested:
            found = f"{len(hosts)} hosts x {scaling.slots} processes after {wait:.0f} s"
            hint = "kubectl get pods shows the pods"
            raise UserError(f"{found}, --min-np asks for {scaling.min_np}; {hint}", code=FAILED)
        print(f"distsent: running on {len(hosts)} hosts: {' '.join(hosts)}", flush=True)
        watch, started = HostWatch(scaling, hosts, training), time.monotonic()
        decision = training.run(scaling.command(command, hosts), watch.poll, scaling.poll)
        if decision.action in ("done", "give_up") or training.stop_requested:
            break
        if decision.action == "requeue" or watch.changed:
            failures = 0
            continue
        failures = failures + 1 if time.monotonic() - started < EARLY else 1
        text = f"the run ended with {decision.code}; resuming on the hosts that answer"
        print(f"distsent: {text}", flush=True)
        time.sleep(min(scaling.poll, 10.0))
    return decision, hosts
