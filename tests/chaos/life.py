"""A small run under attack, from its first start to its last, and what each attack left of it.

Every start is the same command in real processes under horovodrun. A run that was attacked any number of times must end with the
weights of one that was let be.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from distsent.runtime import checkpoint
from distsent.runtime.run_folder import read_json
from distsent.runtime.run_status import read_status
from tests import fixtures, launcher
from tests.chaos.fork_server import Nursery, Warm

NP = 2
STEPS, SAVED, EVALUATED = 60, 3, 10
LIMIT = 100.0  # seconds in which all processes must have ended; what they took stands in the record
SHELLS = ("sh", "bash", "dash")


@dataclass(frozen=True)
class StepResult:
    """What became of one attack."""

    system: str  # who was attacked
    attack: str
    seconds: float  # from the attack to the end of the last process; LIMIT if some were left then
    orphans: int  # processes that were left
    code: int  # the launcher's
    finished: bool  # the run came to its end before, or all the same
    newest: int  # step of the newest checkpoint, 0 if there was none yet
    lost: int  # steps trained behind it
    damaged: tuple[str, ...] = ()  # what the reader had to pass over
    seed: int = 0


@dataclass
class Life:
    """A run folder that belongs to one seed."""

    folder: Path
    seed: int
    nursery: Nursery | None = None  # where its workers come from; none: each start imports all

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.run = self.folder / "chaos"
        self.holds = self.folder / "holds"
        self.last_output = ""  # of the last start that was attacked

    def start(
        self, hold: str = "", pause: float = 0.0, changes: Sequence[str] = ()
    ) -> launcher.Started:
        shutil.rmtree(self.holds, ignore_errors=True)
        self.holds.mkdir(parents=True)
        env, words = (
            {"HOLD": hold, "HOLD_AT": str(self.holds), "PAUSE": str(pause)},
            [*job(self.folder), *changes],
        )
        if self.nursery is not None:
            return self.nursery.start(words, NP, **env)
        return launcher.start("-m", "tests.chaos.paused_worker", *words, np=NP, **env)

    def let_go(self) -> None:
        (self.holds / "go").touch()

    def is_at(self, place: str, rank: int) -> bool:
        return (self.holds / f"{place}.{rank}").exists()

    @property
    def result(self) -> dict[str, object] | None:
        return read_json(self.run / "result.json")

    @property
    def status(self) -> str:
        found = read_status(self.run / "status.json")
        return f"{found.state}: {found.message}" if found else ""

    @property
    def trained(self) -> int:
        """The last step that metrics.jsonl tells of."""
        path, step = self.run / "metrics.jsonl", 0
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(ValueError):  # a line that is cut short
                step = max(step, json.loads(line)["step"])
        return step

    def after(self, started: launcher.Started, attack: str, since: float) -> StepResult:
        """Wait until nothing of a start is left, then look at the folder."""
        left = started.processes()
        while left and time.monotonic() - since < LIMIT:
            time.sleep(0.05)
            left = started.processes()
        seconds = time.monotonic() - since
        for process in left:
            launcher.end(process)
        ended = started.wait(30)
        code, self.last_output = ended.code, ended.output
        damaged: list[str] = []
        found = checkpoint.load_newest(self.run / "checkpoints", damaged.append)
        newest = found.step if found else 0
        return StepResult(
            "distsent", attack, round(seconds, 2), len(left), code, self.result is not None, newest,
            max(0, self.trained - newest), tuple(damaged), self.seed,
        )  # fmt: skip

    def finish(self) -> str:
        """The same command once more, let be; the hash of the weights at its end."""
        with self.start() as started:
            ended = started.wait(250)
        assert ended.code == 0, ended.output
        return self.hash

    @property
    def hash(self) -> str:
        """Of the weights that the run gives away, and of the weights and moments behind its last step."""
        assert self.result is not None
        last = checkpoint.load_newest(self.run / "checkpoints")
        assert last is not None and last.step == STEPS
        return " ".join(
            [
                str(self.result["weights_sha256"]),
                *(checkpoint.weights_sha256(g) for g in last.tensors.values()),
            ]
        )


@cache
def parts() -> tuple[str, str]:
    """Model and corpus, made once for all lives of this process."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="distsent-chaos-"))
    return str(fixtures.model(folder / "model")), str(
        fixtures.corpus(folder / "corpus", validation=12)
    )


def job(folder: Path) -> list[str]:
    """60 steps of 8 examples with dropout, saved every 3, evaluated every 10: almost anywhere there is something to lose."""
    model, corpus = parts()
    return [
        f"model.name={model}", f"data.source={corpus}", "data.max_length=40", "model.dropout=0.1", "train.batch_size=8",
        f"train.max_steps={STEPS}", "optim.lr=1e-3", f"eval.every={EVALUATED}", f"checkpoint.every_steps={SAVED}", "log.every=1",
        "log.tensorboard=false", f"run.dir={folder}", "job.name=chaos",
    ]  # fmt: skip


def workers(started: launcher.Started) -> dict[int, int]:
    """Process ids of the workers by rank; those that are there yet."""
    if isinstance(started, Warm):
        return started.workers()
    found = {}
    for process in started.processes():
        with suppress(OSError):
            path = Path(f"/proc/{process}")
            variables = dict(
                word.partition(b"=")[::2] for word in (path / "environ").read_bytes().split(b"\0")
            )
            rank = variables.get(b"OMPI_COMM_WORLD_RANK", variables.get(b"HOROVOD_RANK"))
            if rank is not None and b"tests.chaos.paused_worker" in (
                path / "cmdline"
            ).read_bytes().split(b"\0"):
                found[int(rank)] = process
    return found


def launchers(started: launcher.Started) -> list[int]:
    """What is above the workers: the process that the user started, and the mpirun below it."""
    mine = set(workers(started).values())
    return sorted(process for process in started.processes() if process not in mine)


def send(processes: Sequence[int], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


KILLS = ("rank 0", "rank 1", "all ranks", "launcher", "mpirun", "everything")


def kill(started: launcher.Started, whom: str) -> None:
    """SIGKILL, as a machine's out-of-memory killer, a preemption or a power cut would."""
    by_rank, above = workers(started), launchers(started)
    victims = {
        "rank 0": [by_rank[0]] if 0 in by_rank else [], "rank 1": [by_rank[1]] if 1 in by_rank else [],
        "all ranks": list(by_rank.values()), "launcher": [started.process.pid],
        "mpirun": [p for p in above if p != started.process.pid][:1] or [started.process.pid],
        "everything": [*above, *by_rank.values()],
    }[whom]  # fmt: skip
    send(victims or started.processes(), signal.SIGKILL)  # before there are workers: everything


class Record:
    """Outcomes, a line each, in a file that several goes may add to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, outcome: StepResult) -> StepResult:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        return outcome

    def note(self, **values: object) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def lines(self) -> Iterator[dict[str, object]]:
        yield from (json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines())
