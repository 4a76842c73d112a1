"""Every operation of a run on its storage, hit by an error: what became of the run.

A scenario is a program on a copy of a folder. It runs once undisturbed, to learn its operations.
Then one of these fails, once or from then on, and the same command is started again without faults.
"""

from __future__ import annotations

import errno
import json
import random
import re
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from distsent.runtime import checkpoint
from tests import fixtures
from tests.hosts.disk import ALWAYS, Disk, Fault
from tests.hosts.programs import Ended, Programs

ERRORS = (errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC, errno.EDQUOT)
SCENARIOS = ("prepare", "start", "resume", "evaluate", "again")
SAVED, STEPS = 2, 6  # steps between two saves; steps of a run
# What is drawn at random in the name of a file
DRAWN = (
    (r"\.fuse_hidden\w+", "?fuse_hidden*"), (r"/\.tmp\w{6}$", "/.tmp*"), (r"/tmp\w{8}$", "/tmp*"),
    (r"(/\.[0-9a-f]{32}\.)[^/]*-[^/]*", r"\1*"), (r"[0-9a-f]{32}", "*"),
    (r"\.[0-9a-f]{8,12}(-\d+)?(?=[./]|$)", ".*"),
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    scenario: str
    fault: Fault

    def __str__(self) -> str:
        fault, name = self.fault, errno.errorcode[self.fault.error]
        when = "always" if fault.times == ALWAYS else f"once, the {fault.after + 1}."
        return f"{self.scenario}: {fault.operation} {fault.pattern} {name} {when}"


@dataclass(frozen=True)
class Outcome:
    """`problems`: what must not happen, a line each."""

    case: Case
    code: int
    output: str
    problems: tuple[str, ...]


class FaultyRuns:
    """Runs scenarios on a disk."""

    def __init__(self, disk: Disk, programs: Programs) -> None:
        self._disk, self._programs = disk, programs
        self._work = disk.folder / "work"  # always this name: a run records its paths
        empty = disk.folder / "empty"
        fixtures.model(empty / "model", dropout=0.1)
        fixtures.corpus(empty / "data", validation=6, test=12)
        self._templates = {"prepare": empty, "start": empty}
        self.failed = 0  # operations, in the last case
        self._operations: dict[str, dict[tuple[str, str], int]] = {}
        self._record("prepare")
        finished = self._record("start").rename(disk.folder / "finished")
        self.weights = weights(finished)
        self._templates |= {"evaluate": finished, "again": finished, "resume": stopped(finished)}
        self.scores = ""
        for name in ("resume", "evaluate", "again"):
            self._record(name)

    def cases(self, number: int, seed: int) -> list[Case]:
        """Faults at all kinds of operations, each as often as the others."""
        rng, kinds = random.Random(seed), defaultdict[tuple[str, str], list[Case]](list)
        for scenario, counts in self._operations.items():
            for (operation, pattern), count in counts.items():
                for error in ERRORS:
                    for times in (1, ALWAYS):
                        after = rng.randrange(count) if times == 1 or rng.random() < 0.5 else 0
                        fault = Fault(operation, pattern, error, after, times)
                        kinds[scenario, operation].append(Case(scenario, fault))
        for cases in kinds.values():
            rng.shuffle(cases)
        chosen: list[Case] = []
        while len(chosen) < number and any(kinds.values()):
            chosen += [cases.pop() for cases in kinds.values() if cases]
        return chosen[:number]

    def run(self, case: Case, mutant: str = "") -> Outcome:
        """A case: the program with the fault, and with the `mutant` if any; then without both."""
        folder = self._copy(case.scenario)
        before = steps(folder)
        self._disk.fail(case.fault)
        ended = self._start(case.scenario, folder, mutant)
        self.failed = hits = self._disk.failed()
        self._disk.fail()
        problems = [*self._judge(case, ended, hits)]
        if before and max(before) not in steps(folder):
            problems.append(f"lost the checkpoint of step {max(before)}")
        again = self._start(case.scenario, folder)
        if again.code:
            problems.append(f"the next start ended with {again.code}: {again.output[-600:]}")
        elif case.scenario == "evaluate":
            if scores(again.output) != self.scores:
                problems.append("other scores")
        elif case.scenario != "prepare" and weights(folder) != self.weights:
            problems.append("other weights")
        return Outcome(case, ended.code, ended.output, tuple(problems))

    def _judge(self, case: Case, ended: Ended, hits: int) -> Iterator[str]:
        if ended.code == -signal.SIGBUS and case.fault.operation == "read":
            return  # the kernel's answer where a page of a mapped file cannot be read
        # No permission, as far as the run can see: then the job names a wrong place
        denied = case.fault.error == errno.EACCES and case.fault.times == ALWAYS
        if ended.code not in ((0, 1, 2) if denied else (0, 1) if hits else (0,)):
            yield f"ended with {ended.code}"
        lines = [line for line in ended.output.splitlines() if line.startswith("distsent: ")]
        named = lines and not lines[-1].startswith("distsent: the output: ")
        if "Traceback" in ended.output or (ended.code and not named):
            yield "no line about the error"
        if case.scenario == "resume" and not ended.code and "resumed at step 4" not in ended.output:
            yield "did not resume from the newest checkpoint"

    def _record(self, scenario: str) -> Path:
        """The folder of an undisturbed run. Notes its operations."""
        folder, counts = self._copy(scenario), defaultdict[tuple[str, str], int](int)
        self._disk.fail()
        ended = self._start(scenario, folder)
        assert ended.code == 0, ended.output
        for operation, path in self._disk.operations():
            inside = path.removeprefix(f"/{folder.name}")
            if inside != path:
                counts[operation, pattern_of(inside)] += 1
        self._operations[scenario] = counts
        if scenario == "evaluate":
            self.scores = scores(ended.output)
        return folder

    def _copy(self, scenario: str) -> Path:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self._templates[scenario], self._work)
        return self._work

    def _start(self, scenario: str, folder: Path, mutant: str = "") -> Ended:
        root = self._disk.path / folder.name
        cache = {"HF_DATASETS_CACHE": str(root / "cache")}
        if scenario == "evaluate":
            return self._programs.run("evaluate", f"{root}/runs/fault", mutant=mutant, **cache)
        program = "prepare" if scenario == "prepare" else "train"
        return self._programs.run(program, *job(root), mutant=mutant, **cache)


def job(root: Path) -> list[str]:
    return [
        f"model.name={root}/model", f"data.source={root}/data", "data.max_length=40",
        "model.dropout=0.1", "train.batch_size=8", f"train.max_steps={STEPS}", "optim.lr=1e-3",
        "eval.every=3", f"checkpoint.every_steps={SAVED}", "checkpoint.keep=2", "log.every=1",
        "log.tensorboard=false", f"run.dir={root}/runs", "job.name=fault",
    ]  # fmt: skip


def stopped(finished: Path) -> Path:
    """The folder of a run as it was before its last save."""
    folder = finished.with_name("stopped")
    shutil.copytree(finished, folder)
    run = folder / "runs" / "fault"
    for path in (run / "model", run / "predictions", checkpoints(folder)[-1]):
        shutil.rmtree(path)
    (run / "result.json").unlink()
    return folder


def checkpoints(folder: Path) -> list[Path]:
    return checkpoint.list_checkpoints(folder / "runs" / "fault" / "checkpoints")


def steps(folder: Path) -> set[int]:
    """The steps of the checkpoints that can be loaded."""
    return {checkpoint.load(path).step for path in checkpoints(folder)}


def weights(folder: Path) -> list[object]:
    """Of the published model, and the weights and moments after the last step."""
    last = checkpoint.load(checkpoints(folder)[-1])
    groups = [checkpoint.weights_sha256(group) for group in last.tensors.values()]
    return [fixtures.result(folder / "runs" / "fault")["weights_sha256"], last.step, *groups]


def scores(output: str) -> str:
    """What `evaluate` printed, without paths and times."""
    line = next(line for line in output.splitlines() if line.startswith("{"))
    dropped = ("model", "source", "seconds", "samples_per_second")
    return json.dumps({k: v for k, v in json.loads(line).items() if k not in dropped})


def pattern_of(path: str) -> str:
    for drawn, pattern in DRAWN:
        path = re.sub(drawn, pattern, path)
    return f"*{path}"
