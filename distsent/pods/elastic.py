"""Training on as many workers as are running, without Horovod's elastic mode."""

import math
import subprocess
import time
from dataclasses import dataclass, field

from distsent.errors import FAILED, UserError
from distsent.pods.hosts import unreachable
from distsent.pods.restarts import Ending
from distsent.pods.training_command import Training

PATIENCE = 60.0  # seconds for the script that prints the hosts


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

    def start(self, training: Training, command: list[str], wait: float) -> Ending:
        """Start the command on whatever hosts there are, and run it to its end."""
        self.wait(wait, training)
        count, places = len(self.hosts), ",".join(f"{h}:{self.slots}" for h in self.hosts)
        if count * self.slots < self.min_np and not training.stop_requested:
            found = f"{count} hosts x {self.slots} processes after {wait:.0f} s"
            raise UserError(f"{found}, --min-np asks for {self.min_np}", code=FAILED)
        print(f"distsent: running on {count} hosts: {' '.join(self.hosts)}", flush=True)
        size = min(count * self.slots, self.max_np or math.inf)
        words = [command[0], "-np", str(size), "-H", places, *command[1:]]
        return training.run(words, lambda: self.look(training), self.poll), self.hosts
