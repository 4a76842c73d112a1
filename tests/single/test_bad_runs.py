"""Runs in bad circumstances, as typed: exit code, the one line, and the files that they leave."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from distsent import cli, evaluate, next_action, predict, train
from distsent.distributed.world import MembershipChanged, World
from distsent.errors import Stopped, UserError
from distsent.job import load_job
from distsent.runtime.checkpoint import list_checkpoints
from distsent.runtime.run_status import ATTEMPT
from distsent.training import session
from distsent.training.loop import Loop
from distsent.training.train_state import TrainState
from tests import fixtures, launcher

# Typed as `python -m distsent.PROGRAM WORDS`: exit code, standard output and error.
Typed = Callable[..., tuple[int, str, str]]
PROGRAMS = {"train": train.main, "evaluate": evaluate.main, "predict": predict.main}


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Restore the threads that the entry point sets."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    def run(program: str, *words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [program, *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.run(PROGRAMS[program])
        return int(str(ended.value.code)), *capsys.readouterr()

    return run


def job(folder: Path, *more: str, classes: int = 3) -> list[str]:
    """A short run named `it`. Creates its dataset and its model."""
    corpus = fixtures.corpus(folder / "corpus", train=24, validation=12, test=12)
    if classes != 3:
        for path in corpus.iterdir():
            rows = [{"text": f"w{i % 90} w3", "label": f"class {i}"} for i in range(classes)]
            fixtures.jsonl(path, rows)
    base = [
        f"data.source={corpus}", f"model.name={fixtures.model(folder / 'model', classes)}",
        f"run.dir={folder / 'runs'}", "job.name=it", "data.max_length=40", "train.batch_size=4",
        "train.max_steps=6", "log.tensorboard=false",
    ]  # fmt: skip
    said = {word.partition("=")[0]: word for word in (*base, *more)}
    return list(said.values())


def spoil_losses(monkeypatch: pytest.MonkeyPatch, bad: Callable[[int], bool]) -> None:
    """The loss of evaluation number i is NaN where `bad(i)`."""
    evaluate_split, numbers = session.evaluate_split, count()

    def spoiled(*args: Any, **options: Any) -> Any:
        scores, logits = evaluate_split(*args, **options)
        return scores | ({"loss": math.nan} if bad(next(numbers)) else {}), logits

    monkeypatch.setattr(session, "evaluate_split", spoiled)


def test_an_evaluation_that_is_nan_is_never_the_best(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = job(tmp_path, "eval.metric=loss", "eval.every=2")
    spoil_losses(monkeypatch, lambda i: i == 0)
    assert typed("train", *words)[0] == 0
    result = fixtures.result(tmp_path / "runs" / "it")
    assert result["best"]["step"] in (4, 6) and math.isfinite(result["best"]["value"])

    spoil_losses(monkeypatch, lambda i: True)
    words = job(tmp_path, "eval.metric=loss", "eval.every=2", "train.patience=2", "job.name=all")
    code, _, err = typed("train", *words)
    result = fixtures.result(tmp_path / "runs" / "all")
    assert (code, result["best"], result["steps"], result["ended_early"]) == (0, None, 4, True)
    assert "stopped early: no improvement of loss in 2 evaluations" in err


def loop_at(step: int, world: World | None = None) -> Loop:
    """A loop with state alone: no data, no model."""
    parts: Any = SimpleNamespace(
        job=load_job(None, ["train.patience=1", "train.max_steps=6", "eval.every=2"]),
        total_steps=6, world=world or World(), plan=Mock(), report=Mock(), in_memory=True,
    )  # fmt: skip
    with patch.object(World, "is_main", False):
        return Loop(parts, TrainState(step, best={"step": 2, "value": 0.5}))


@pytest.mark.parametrize("error", [MembershipChanged("a worker was lost"), RuntimeError("a bug")])
def test_a_run_that_ends_gives_its_save_the_time_of_a_save(error: Exception) -> None:
    """The heartbeat judges rank 0 by its phase: a step may take a tenth of the time."""
    loop, phases = loop_at(4, world := World()), list[str]()

    def note() -> None:
        phases.append(world.progress.position.phase)

    loop.saver = Mock(wait=note, close=note)
    with patch.object(Loop, "save", side_effect=error), pytest.raises(type(error)):
        loop.run()
    assert set(phases) == {"save"}


def test_a_skipped_step_that_is_repeated_counts_once() -> None:
    """Elastic workers repeat it with others if one is lost while they name the rows."""
    loop, bad = loop_at(4), Mock(overflowed=False, bad_rows=[])
    lost = patch.object(World, "allgather_object", side_effect=MembershipChanged("lost"))
    with lost, pytest.raises(MembershipChanged):
        loop._skip(Mock(), bad)
    assert loop.state.totals.skipped == 0


@pytest.mark.parametrize(("step", "early"), [(4, True), (6, False)])
def test_what_the_last_step_ends_has_not_ended_early(step: int, early: bool) -> None:
    loop = loop_at(step)
    assert not loop._choose({"accuracy": 0.4}) and loop.state.ended_early == early


def test_states_of_older_versions_lose_what_would_stay_for_ever() -> None:
    record = {"step": 2, "split": "validation", "loss": math.nan, "confusion": [[1]]}
    old = TrainState(2, history=[record], best={"step": 2, "value": math.nan}).to_dict()
    state = TrainState.from_dict(json.loads(json.dumps(old)))
    assert state.best is None and list(state.history[0]) == ["step", "split", "loss"]
    assert TrainState.from_dict(TrainState(2, best={"step": 2, "value": 0.5}).to_dict()).best


def test_many_classes_cost_a_checkpoint_nothing(typed: Typed, tmp_path: Path) -> None:
    words = job(tmp_path, "eval.every=1", "train.max_steps=3", classes=300)
    assert typed("train", *words)[0] == 0
    run = tmp_path / "runs" / "it"
    assert len(list_checkpoints(run / "checkpoints")) >= 2
    for path in run.glob("checkpoints/*/state.json"):
        assert path.stat().st_size < 3000, "300 classes have 90,000 cells"
    result = fixtures.result(run)
    assert len(result["history"]) == 3 and "confusion" not in result["history"][0]
    assert len(result["eval"]["test"]["confusion"]) == 300
    assert len(fixtures.metrics(run, "validation")[0]["confusion"]) == 300


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_obey_the_umask(umask: int, typed: Typed, tmp_path: Path) -> None:
    team = tmp_path / "team"
    words = job(
        tmp_path, "log.tensorboard=true", "train.max_steps=2", "adapter.kind=lora",
        f"run.dir={team / 'runs'}",
    )  # fmt: skip
    team.mkdir()
    os.chown(team, -1, 7 if os.geteuid() == 0 else os.getegid())
    team.chmod(0o2770)  # new files belong to the group of the folder
    before = os.umask(umask)
    try:
        assert typed("train", *words)[0] == 0
    finally:
        os.umask(before)
    paths = list(team.rglob("*"))
    assert {"model.safetensors", "adapter_model.safetensors", "test.safetensors", "state.json"} <= {
        path.name for path in paths
    }
    for path in paths:
        expected = (0o2777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == expected, path
        assert path.stat().st_gid == team.stat().st_gid, path


def test_text_is_taken_as_written(typed: Typed) -> None:
    words = ["job.name=2024-11-25", "data.label_column=5", "data.labels=[0,1e5]"]
    code, out, err = typed("train", "--check", *words)
    assert (code, err) == (0, "")
    for line in ('name = "2024-11-25"', 'label_column = "5"', 'labels = ["0", "1e5"]'):
        assert f"\n{line}\n" in out


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no-such.invalid", "no-such.invalid, does not resolve"),
        ("192.0.2.1", "192.0.2.1, is 192.0.2.1, no address of this host"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "5"])
def test_a_host_that_does_not_know_its_name_says_so_instead_of_crashing_in_gloo(
    name: str,
    problem: str,
    rank: str,
    typed: Typed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = job(tmp_path)
    monkeypatch.setattr(socket, "gethostname", lambda: name)
    world = {"RANK": rank, "SIZE": "8", "LOCAL_RANK": "0", "LOCAL_SIZE": "4", "CONTROLLER": "gloo"}
    for key, value in world.items():
        monkeypatch.setenv(f"HOROVOD_{key}", value)
    fix = f"Gloo would crash: add the line `127.0.1.1 {name}` to /etc/hosts, or use MPI"
    found = typed("train", *words)
    assert found == (1, "", f"distsent: this host's name, {problem}; {fix}\n")
    assert not list((tmp_path / "runs").iterdir())


def test_a_lone_process_says_that_its_launcher_variables_are_incomplete(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not rank 0, but there may be no other process."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, out, err = typed("train", *job(tmp_path))
    assert (code, out) == (2, "") and err.startswith("distsent: RANK=1 WORLD_SIZE=2 without MASTER")


def test_in_any_locale_words_names_and_lines_are_utf8(tmp_path: Path) -> None:
    model, said = fixtures.model(tmp_path / "modèle"), ["déjà vu", "ça — 日本"]
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "distsent.predict", os.fsencode(model)],
        input=("\ufeff" + "\n".join(said)).encode(),
        capture_output=True,
        env=os.environ | environment | {"PYTHONIOENCODING": "latin-1"},
        check=True,
    )
    assert [json.loads(line)["text"] for line in done.stdout.decode().splitlines()] == said


def test_closed_streams_and_other_bytes_are_no_traceback(tmp_path: Path) -> None:
    python = f"{sys.executable} -m distsent.train --check"
    closed = subprocess.run(f"{python} <&- >&- 2>&-", shell=True, check=False)
    assert closed.returncode == 0
    latin = subprocess.run(
        [*python.split(), "data.source=donn\udce9es"], capture_output=True, check=False
    )
    line = b'distsent: command line: data.source = "donn\\udce9es": expected text'
    assert latin.returncode == 2 and latin.stderr.startswith(line)


def test_a_full_disk_behind_standard_output_and_a_deleted_folder_are_one_line(
    tmp_path: Path,
) -> None:
    check = f"{sys.executable} -m distsent.train --check"
    for command, line in (
        (f"{check} >/dev/full", "the output: No space left on device"),
        (f"rmdir $PWD; {check}", "the current folder was deleted: cd to another one"),
    ):
        options: dict[str, Any] = {"shell": True, "capture_output": True, "text": True}
        tmp_path.mkdir(exist_ok=True)
        environment = os.environ | {"PYTHONPATH": str(launcher.ROOT)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, check=False, **options)
        assert (done.returncode, done.stderr) == (1, f"distsent: {line}\n")


def test_ctrl_c_ends_a_program_as_the_signal_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    raised: list[int] = []
    monkeypatch.setattr(signal, "raise_signal", lambda number: raised.append(number) or exit(130))
    with pytest.raises(SystemExit):
        cli.run(interrupted)
    assert raised == [signal.SIGINT] and signal.getsignal(signal.SIGINT) == signal.SIG_DFL


def on_a_terminal(words: list[str], nohup: bool) -> tuple[int, int]:
    """Start train on a terminal of its own: its process and the other end of the terminal."""
    child, terminal = pty.fork()
    if child == 0:
        if nohup:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        environment = os.environ | launcher.WORKER_ENVIRONMENT
        os.execve(sys.executable, [sys.executable, "-m", "distsent.train", *words], environment)
    return child, terminal


def test_a_closed_terminal_stops_a_run_but_not_under_nohup(tmp_path: Path) -> None:
    many, few = "train.max_steps=100000", "train.max_steps=40"
    runs = {
        name: on_a_terminal(
            job(tmp_path, steps, f"job.name={name}", "log.every=1"), name == "nohup"
        )
        for name, steps in (("closed", many), ("nohup", few))
    }
    ends = {}
    for name, (child, terminal) in runs.items():
        with suppress(OSError):  # it ended before its first step
            while b"loss" not in os.read(terminal, 1000):
                pass
        os.close(terminal)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        status = json.loads((tmp_path / "runs" / name / "status.json").read_text())
        ends[name] = code, status["code"], status["state"]
    assert ends == {"closed": (75, 75, "stopped"), "nohup": (0, 0, "finished")}
    closed = tmp_path / "runs" / "closed"
    step = json.loads((closed / "status.json").read_text())["step"]
    assert list_checkpoints(closed / "checkpoints")[-1].name == f"step-{step:08d}"
    assert "stop requested: SIGHUP on rank 0" in (closed / "train.log").read_text()


def test_a_refused_start_leaves_its_code_for_launchers_that_hide_it(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """It does not own the folder, so it says beside it why it was refused."""
    base, run = job(tmp_path), tmp_path / "runs/it"
    monkeypatch.setenv(ATTEMPT, "1")
    assert typed("train", *base)[0] == 0
    before = (run / "status.json").read_text()

    def decided(attempt: str) -> str:
        assert next_action.main([str(run), "--code", "1", "--attempt", attempt]) == 0
        return str(capsys.readouterr().out)

    def unconnected(*_: object) -> World:
        raise UserError("RANK=1, but there is no MASTER_ADDR")

    def train_as(attempt: str, *words: str) -> str:
        monkeypatch.setenv(ATTEMPT, attempt)
        typed("train", *base, *words)
        assert (run / "status.json").read_text() == before, "it belongs to the first start"
        return decided(attempt)

    assert train_as("2", "optim.lr=0.5").startswith(f"give_up 2 usage_error {run}: this run was")
    assert decided("3") == "retry 1 failed \n", "it is that of another start"
    with patch.object(train, "init_world", unconnected):
        assert train_as("4") == "give_up 2 usage_error RANK=1, but there is no MASTER_ADDR\n"
    with patch.object(train, "init_world", side_effect=Stopped("stop requested: SIGTERM")):
        assert train_as("6") == "requeue 75 stopped stop requested: SIGTERM\n"
    with open(run / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert train_as("5").startswith(f"retry 1 failed {run}: ")
    typed("train", *base, "run.resume=changed", "optim.lr=0.5")
    assert sorted(path.name for path in run.parent.iterdir() if path.name != ".tokens") == ["it"]
    monkeypatch.delenv(ATTEMPT)
    typed("train", *base)
    assert not (run.parent / ".it.refused.json").exists(), "nobody would look for it"


@pytest.mark.parametrize("place", ["runs/it/checkpoints", "runs/it"])
def test_a_file_in_place_of_a_folder_is_named(place: str, typed: Typed, tmp_path: Path) -> None:
    base = job(tmp_path)
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).touch()
    code, _, error = typed("train", *base)
    fix = "move it away, or choose another folder with run.dir=..."
    line = f"distsent: run.dir: {tmp_path / place} is not a folder; {fix}"
    assert (code, error.splitlines()[-1]) == (2, line)


def test_a_run_without_its_job_is_not_continued_unasked(typed: Typed, tmp_path: Path) -> None:
    base, run = job(tmp_path), tmp_path / "runs/it"
    assert typed("train", *base)[0] == 0
    checkpoints = [path.name for path in list_checkpoints(run / "checkpoints")]
    for result in (True, False):  # of a finished run, of a stopped one
        (run / "job.json").unlink()
        if not result:
            (run / "result.json").unlink()
        code, _, error = typed("train", *base)
        assert code == 2
        assert error.splitlines()[-1].startswith(
            f"distsent: {run}: holds a run, but no job.json that this job could be compared with; "
        )
        assert not (run / "job.json").exists()
        assert [path.name for path in list_checkpoints(run / "checkpoints")] == checkpoints
        assert typed("train", *base, "run.resume=changed")[0] == 0
        assert (run / "job.json").exists() and (run / "result.json").exists()
    (run / "job.json").unlink()
    assert typed("train", *base, "run.resume=never")[0] == 0
