"""A job on the cluster: submitted, watched, and ended."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from patience import wait_for
from slurm_cluster import Cluster, missing

MARKS = [
    pytest.mark.cluster,
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

# The demo dataset and model under the scripts' own job files.
DEMO = (
    "data.source=demo", "data.max_length=64", "model.name=demo", "train.batch_size=64",
    "optim.name=adamw", "train.max_steps=40", "eval.every=end", "checkpoint.every_steps=5",
    "log.every=1",
)  # fmt: skip
ENDLESS = "train.max_steps=1000000"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


class Job:
    """A submitted job."""

    def __init__(
        self, cluster: Cluster, script: str, *arguments: str, options: str = "", **env: str
    ) -> None:
        self.cluster, self.runs = cluster, cluster.home / "runs"
        self.options = [
            "--gres=none",
            "--cpus-per-task=1",
            "--ntasks-per-node=1",
            f"--output={cluster.home}/%x-%j.log",
            *options.split(),
        ]
        path = script if "/" in script else f"slurm/{script}"
        # Of two values for one key the later one counts.
        words = {word.partition("=")[0]: word for word in (*arguments, f"run.dir={self.runs}")}
        submitted = cluster.run("sbatch", *self.options, path, *words.values(), **env)
        self.id = submitted.split()[-1]

    def __getitem__(self, key: str) -> str:
        """A field of `scontrol show job`, empty without it."""
        found = re.search(rf"\b{key}=(\S+)", self.cluster.run("scontrol", "show", "job", self.id))
        return found[1] if found else ""

    @property
    def log(self) -> str:
        return "".join(path.read_text() for path in self.cluster.home.glob(f"*-{self.id}.log"))

    def wait_for_line(self, pattern: str, seconds: float = 240) -> re.Match[str]:
        """The first match in the log, as soon as it appears."""
        wait_for(
            repr(pattern),
            lambda: re.search(pattern, self.log) or self["JobState"] in ENDED,
            seconds,
            self.describe,
        )
        match = re.search(pattern, self.log)
        assert match, f"ended without {pattern!r}\n{self.describe()}"
        return match

    def end(self, state: str = "COMPLETED", restarts: int = 0, seconds: float = 240) -> str:
        """Wait for the end, check the job's state, and return the log."""
        wait_for("the end", lambda: self["JobState"] in ENDED, seconds, self.describe)
        assert (self["JobState"], self["Restarts"]) == (state, str(restarts)), self.log
        return self.log

    def stop(self, ask: Callable[[], object]) -> None:
        """Ask a held run to stop, and release it when the request has arrived."""
        ask()
        wait_for("a worker is asked to stop", self.cluster.hold.heard, 120, self.describe)
        self.cluster.hold.free()

    def wait_for_checkpoint(self, name: str = "imdb") -> None:
        checkpoints = self.runs / name / "checkpoints"
        wait_for(
            "a checkpoint",
            lambda: list(checkpoints.glob("step-*")) or self["JobState"] in ENDED,
            240,
            self.describe,
        )

    def describe(self) -> str:
        """Its log and state."""
        state = f"{self['JobState']} {self['Reason']}, restarts: {self['Restarts']}"
        return f"{self.log}\njob {self.id}: {state}"

    def result(self, name: str) -> dict:
        return json.loads((self.runs / name / "result.json").read_text())
