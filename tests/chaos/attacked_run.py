"""A small training run under attack, over all its starts, and the result of each attack.

Every start is the same command in real processes under horovodrun. However often a run was
attacked, it must end with the weights of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from distsent.runtime import checkpoint
from distsent.runtime.run_folder import read_json
from distsent.runtime.run_status import RunStatus, read_status
from tests import fixtures, launcher
from tests.chaos.fork_server import ForkedStart, ForkServer

NP = 2
STEPS, SAVED, EVALUATED = 60, 3, 10
LIMIT = 100.0  # seconds until all processes must have ended


@dataclass(frozen=True)
class AttackResult:
    """The result of one attack."""

    system: str  # the one under attack
    attack: str
    seconds: float  # from the attack to the end of the last process; LIMIT if some were left then
    orphans: int  # processes that were left
    code: int  # the launcher's
    finished: bool  # the run finished, before the attack or in spite of it
    newest: int  # step of the newest checkpoint, 0 without one
    lost: int  # steps trained after it
    damaged: tuple[str, ...] = ()  # checkpoints that could not be loaded
    seed: int = 0


@dataclass
class AttackedRun:
    """A run folder and the starts in it."""

    folder: Path
    seed: int
    server: ForkServer | None = (
        None  # forks the workers; without one, each start imports everything
    )

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.run = self.folder / "chaos"
        self.marks = self.folder / "marks"
        self.last_output = ""  # of the last start that was attacked

    def start(
        self, pause_at: str = "", step_delay: float = 0.0, changes: Sequence[str] = ()
    ) -> launcher.Started:
        shutil.rmtree(self.marks, ignore_errors=True)
        self.marks.mkdir(parents=True)
        env = {
            "PAUSE_AT": pause_at,
            "PAUSE_FOLDER": str(self.marks),
            "STEP_DELAY": str(step_delay),
        }
        words = [*job(self.folder), *changes]
        if self.server is not None:
            return self.server.start(words, NP, **env)
        return launcher.start("-m", "tests.chaos.paused_worker", *words, np=NP, **env)

    def resume_workers(self) -> None:
        (self.marks / "go").touch()

    def is_at(self, place: str, rank: int) -> bool:
        return (self.marks / f"{place}.{rank}").exists()

    @property
    def result(self) -> dict[str, Any] | None:
        return read_json(self.run / "result.json")

    @property
    def status(self) -> RunStatus:
        return read_status(self.run / "status.json") or RunStatus()

    @property
    def trained(self) -> int:
        """The last step in metrics.jsonl."""
        path, step = self.run / "metrics.jsonl", 0
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError):  # an incomplete line
                step = max(step, json.loads(line)["step"])
        return step

    def after_attack(self, started: launcher.Started, attack: str, since: float) -> AttackResult:
        """Wait until no process of a start is left, then inspect the folder."""
        left = started.processes()
        while left and time.monotonic() - since < LIMIT:
            time.sleep(0.05)
            left = started.processes()
        seconds = time.monotonic() - since
        for process in left:
            launcher.kill(process)
        done = started.wait(30)
        self.last_output = done.output
        damaged: list[str] = []
        found = checkpoint.load_newest(self.run / "checkpoints", damaged.append)
        newest = found.step if found else 0
        lost = max(0, self.trained - newest)
        finished = self.result is not None
        return AttackResult(
            "distsent", attack, round(seconds, 2), len(left), done.code, finished, newest, lost,
            tuple(damaged), self.seed,
        )  # fmt: skip

    def finish(self) -> str:
        """Run the same command once more, undisturbed; the hash of the weights at its end."""
        with self.start() as started:
            done = started.wait(250)
        assert done.code == 0, done.output
        return self.hash

    @property
    def hash(self) -> str:
        """Of the published weights, and of the weights and moments after the last step."""
        assert self.result is not None
        last = checkpoint.load_newest(self.run / "checkpoints")
        assert last is not None and last.step == STEPS
        groups = (checkpoint.weights_sha256(group) for group in last.tensors.values())
        return " ".join([self.result["weights_sha256"], *groups])


@cache
def model_and_dataset() -> tuple[str, str]:
    """Created once for all runs of this process."""
    folder = Path(tempfile.mkdtemp(prefix="distsent-chaos-"))
    dataset = fixtures.corpus(folder / "dataset", validation=12)
    return str(fixtures.model(folder / "model")), str(dataset)


def job(folder: Path) -> list[str]:
    """60 steps of 8 examples with dropout, saved every 3, evaluated every 10."""
    model, dataset = model_and_dataset()
    return [
        f"model.name={model}", f"data.source={dataset}", "data.max_length=40", "model.dropout=0.1",
        "train.batch_size=8", f"train.max_steps={STEPS}", "optim.lr=1e-3",
        f"eval.every={EVALUATED}", f"checkpoint.every_steps={SAVED}", "log.every=1",
        "log.tensorboard=false", f"run.dir={folder}", "job.name=chaos",
    ]  # fmt: skip


def workers(started: launcher.Started) -> dict[int, int]:
    """Process IDs of the workers that exist so far, by rank."""
    if isinstance(started, ForkedStart):
        return started.workers()
    found = {}
    for process in started.processes():
        with suppress(OSError):
            rank = launcher.rank_of(process)
            if rank is not None and "tests.chaos.paused_worker" in launcher.arguments(process):
                found[rank] = process
    return found


def launchers(started: launcher.Started) -> list[int]:
    """The processes above the workers: the one that the user started, and the mpirun below it."""
    below = set(workers(started).values())
    return sorted(process for process in started.processes() if process not in below)


def send(processes: Sequence[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


KILLS = ("rank 0", "rank 1", "all ranks", "launcher", "mpirun", "everything")


def kill(started: launcher.Started, target: str) -> None:
    """SIGKILL, as a machine's out-of-memory killer, a preemption or a power cut would."""
    by_rank, above = workers(started), launchers(started)
    victims = {
        "rank 0": [by_rank[0]] if 0 in by_rank else [],
        "rank 1": [by_rank[1]] if 1 in by_rank else [],
        "all ranks": list(by_rank.values()),
        "launcher": [started.process.pid],
        "mpirun": [p for p in above if p != started.process.pid][:1] or [started.process.pid],
        "everything": [*above, *by_rank.values()],
    }[target]
    send(victims or started.processes(), signal.SIGKILL)  # everything before workers exist


class AttackLog:
    """Attack results, one JSON line each, in a file that several test runs may append to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, result: AttackResult) -> AttackResult:
        self.note(**asdict(result))
        return result

    def note(self, **values: object) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def lines(self) -> Iterator[dict[str, Any]]:
        yield from (json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines())
