"""Sweeps from their start to the best job, with a trainer that trains nothing (tests/sweeps.py)."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distsent import cli, sweep
from distsent.job import load_job
from distsent.runtime.run_status import read_status
from distsent.search import controller, machine
from distsent.search import trials as trials_module
from distsent.search.machine import share, visible_gpus
from distsent.search.sweep_folder import SweepFolder
from distsent.search.training import Training
from distsent.search.trials import Claim, TrialRun, write_new_run
from tests import fixtures, sweeps
from tests.sweeps import SPACE, files, trained, trials

Ran = tuple[int, str, list[str]]  # exit code, standard output, lines of standard error


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ran]]:
    """Runs a sweep in this process, as its program does."""

    def run(*words: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["sweep.py", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            cli.run(sweep.main)
        out, err = capfd.readouterr()
        return int(exit.value.code or 0), out, err.splitlines()

    monkeypatch.setattr(machine, "cpu_quota", lambda: None)
    with sweeps.faked:
        yield run


def started(folder: Path) -> int:
    return sum(line.startswith("start") for lines in trained(folder).values() for line in lines)


def test_from_a_space_to_the_best_job(tmp_path: Path, run: Callable[..., Ran]) -> None:
    words = files(tmp_path)
    code, out, err = run(*words, "--at-once", "2")
    assert code == 0, err
    found, top = trials(tmp_path), tmp_path / "runs/job-sweep"
    assert list(found) == [f"trial-000{i}" for i in range(6)]
    best = max(found, key=lambda name: found[name]["value"])
    assert out.splitlines()[0] == "accuracy on validation."
    assert out.splitlines()[4].startswith(f"| {best[-4:]}  | finished |")
    assert "| optim.lr " in out and "importance" in out and (top / "sweep.png").exists()
    assert sum("finished" in line for line in (top / "sweep.log").read_text().splitlines()) == 6
    chosen, trial = (load_job(path) for path in (top / "best.toml", top / best / "job.toml"))
    assert {*chosen.changed_keys(trial)} == {"job.name", "run.dir", "data.store"}
    assert (chosen.job.name, chosen.run.dir) == ("job-best", f"{tmp_path}/runs")
    assert trial.data.store == f"{tmp_path}/runs/.tokens" and trial.train.epochs == 3

    # Again: the table alone, in any format
    as_json = json.loads(run(*words, "--format", "json")[1])
    assert as_json == json.loads((top / "trials.json").read_text())
    assert as_json["best"] == int(best[-4:]) and as_json["trials"][0]["value"] == max(
        one["value"] for one in found.values()
    )
    rows = [*csv.DictReader(io.StringIO(run(*words, "--format", "csv")[1]))]
    assert [row["trial"] for row in rows] == [str(one["trial"]) for one in as_json["trials"]]
    assert started(tmp_path) == 6

    # More trials continue; another space or job does not
    assert run(*words, "--trials", "7")[0] == 0 and started(tmp_path) == 7
    assert list(trials(tmp_path)) == [*found, "trial-0006"]
    for text, job, changed in [
        (SPACE.replace("64]", "128]"), (), "train.batch_size of the space has changed from"),
        (SPACE + "[model]\ndropout = [0.1, 0.2]", (), "model.dropout of the space has changed"),
        (SPACE.replace("random", "tpe"), (), "search.sampler of the space has changed"),
        (SPACE, ("optim.clip_norm=2",), "optim.clip_norm of the job has changed from 1.0 to 2.0"),
    ]:  # fmt: skip
        (tmp_path / "space.toml").write_text(text)
        code, _, err = run(*words, *job)
        assert code == 2 and len(err) == 1 and changed in err[0] and "another job.name" in err[0]
    (tmp_path / "space.toml").write_text(SPACE)
    assert run(*words, "log.every=3", "--trials", "8")[0] == 0  # it changes nothing of a result
    # A deleted trial is decided again, with the same parameters
    path = top / "trial-0002"
    os.rename(path, tmp_path / "gone")
    assert run(*words, "--trials", "8")[0] == 0 and started(tmp_path) == 8
    assert trials(tmp_path)["trial-0002"] == found["trial-0002"]


def failing(decays: str) -> str:
    return f"[search]\nsampler = 'grid'\n[optim]\nweight_decay = [{decays}]\n"


def test_trials_that_fail_are_recorded_with_their_reason(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.1 may pass and is tried three times; 0.9 is killed, 0.4 scores nan."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words = files(tmp_path, failing("0.0, 0.2, 0.3, 0.1, 0.9, 0.4"))
    code, out, err = run(*words, "--at-once", "3")
    assert code == 0, err
    states = [(one["state"], one["code"], one["reason"]) for one in trials(tmp_path).values()]
    nan = f"{tmp_path}/runs/job-sweep/trial-0005: its accuracy on validation is not a number"
    assert states == [
        ("finished", 0, ""),
        ("failed", 2, "this is wrong with 0.2"),
        ("failed", 3, "this is wrong with 0.3"),
        ("failed", 1, "this is wrong with 0.1"),
        ("failed", 137, "ended without a report; saved up to step 0 of 30"),
        ("failed", 1, nan),
    ]
    counts = [sum(line.startswith("start") for line in one) for one in trained(tmp_path).values()]
    assert counts == [1, 1, 1, 3, 3, 1]
    assert "| failed   |        - |" in out and "this is wrong with 0.3" in out


def test_a_sweep_ends_if_all_first_trials_fail(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    one = files(tmp_path, failing("0.2"))
    top = tmp_path / "runs/job-sweep"
    line = f"distsent: {top}: the only trial failed; trial-0000: this is wrong with 0.2; fix that"
    for _ in range(2):  # the same command tries it anew
        code, out, err = run(*one)
        assert (code, out) == (2, "") and err[-1].startswith(line), err
        assert len(trained(tmp_path)["trial-0000"]) == 1
    # So does another space: nothing was trained that it could contradict
    words = files(tmp_path, failing("0.2, 0.3, 0.1, 0.0"))
    code, _, err = run(*words)
    assert code == 1 and ": all 3 trials so far failed; trial-0000: this is wrong" in err[-1], err
    assert list(trials(tmp_path)) == ["trial-0000", "trial-0001", "trial-0002"]
    assert run(*files(tmp_path, failing("0.0")))[0] == 0
    assert list(trials(tmp_path)) == ["trial-0000"]


def test_only_failed_trials_are_tried_anew(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three fail at once on a bad machine, while others are in the middle of their first."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, top = files(tmp_path, failing("0.2, 0.3, 0.4, 0.0")), tmp_path / "runs/job-sweep"
    assert run(*words)[0] == 1 and len(trials(tmp_path)) == 3
    write_new_run(top, TrialRun(3, {"optim.weight_decay": 0.0}), None)
    (top / "trial-0003/checkpoints/step-1").mkdir(parents=True)
    theirs = Claim.take(top / "trial-0003/sweep", lambda: None)
    assert theirs is not None
    code, _, err = run(*words, "--join")
    assert code == 1 and "all 3 trials so far failed" in err[-1], err
    assert [len(lines) for lines in trained(tmp_path).values()] == [1, 1, 4]
    assert (top / "trial-0003/checkpoints/step-1").exists()
    theirs.write(top / "trial-0003/sweep/trial.json", "theirs")
    theirs.release()


def test_folds_that_have_finished_stay_when_another_one_failed(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    monkeypatch.setenv("FAKE_FAILURE", "fold-3")
    words = files(tmp_path, FOLDS)
    code, _, err = run(*words)
    assert code == 2 and ": the only trial failed; trial-0000-fold-3: this is wrong" in err[-1]
    kept = [tmp_path / f"runs/job-sweep/trial-0000-fold-{i}/kept" for i in (1, 2)]
    for path in kept:
        path.touch()
    code, _, err = run(*words, "optim.clip_norm=2")
    assert code == 2 and "optim.clip_norm of the job has changed from 1.0 to 2.0" in err[0]
    monkeypatch.delenv("FAKE_FAILURE")
    assert run(*words)[0] == 0
    assert {one["state"] for one in trials(tmp_path).values()} == {"finished"}
    assert all(path.exists() for path in kept)


def test_a_trial_that_ctrl_c_reached_first_has_not_failed(tmp_path: Path) -> None:
    """It reaches all processes of the terminal, in any order."""
    process: Any = SimpleNamespace(asked=False, status=lambda: None, last_line=lambda: "")
    search = SimpleNamespace(pruner="none")
    one: Any = SimpleNamespace(space=SimpleNamespace(search=search), folder=SweepFolder(tmp_path))
    aside: Any = SimpleNamespace(write=lambda *_: None, info=lambda line: None)
    training = Training(one, TrialRun(0, {}), aside, process, aside)
    training.finish(130, stopping=True)
    assert training.run.failures == 0
    training.finish(130)
    assert training.run.failures == 1


PRUNED = "pruner = 'median'\nsampler = 'random'\ntrials = 9"


def test_worse_trials_are_pruned_by_an_ordinary_stop(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = files(tmp_path, SPACE.replace('sampler = "random"\ntrials = 6', PRUNED))
    assert run(*words[:2], "train.epochs=40")[0] == 0
    found = trials(tmp_path)
    pruned = [name for name, one in found.items() if one["state"] == "pruned"]
    best = max(one["value"] or 0.0 for one in found.values())
    assert pruned and all(name > "trial-0004" for name in pruned)
    for name in pruned:
        status = status_of(tmp_path, name)
        assert (status["state"], status["code"]) == ("stopped", 75)
        assert found[name]["scores"][0] < best and len(trained(tmp_path)[name]) < 41
        assert found[name]["reason"].startswith("accuracy ")
    # However fast the trials are: the verdict is about evaluations, not about moments
    again = tmp_path / "fast"
    again.mkdir()
    monkeypatch.setenv("FAKE_SECONDS", "0")
    same = files(again, SPACE.replace('sampler = "random"\ntrials = 6', PRUNED))
    assert run(*same[:2], "train.epochs=40")[0] == 0

    def known(folder: Path) -> dict[str, Any]:
        keys = "state", "value", "parameters", "reason"
        return {name: [one[key] for key in keys] for name, one in trials(folder).items()}

    assert known(again) == known(tmp_path)


def status_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "runs/job-sweep" / name / "status.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_stopped_sweep_saves_its_trials_and_resumes(
    tmp_path: Path, run: Callable[..., Ran], number: signal.Signals
) -> None:
    words = files(tmp_path, SPACE.replace("trials = 6", "trials = 2"), train__epochs="60")

    def stop() -> None:
        while len(trained(tmp_path).get("trial-0001", ())) < 3:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    code, out, err = run(*words[:2], "train.epochs=60", "--at-once", "2")
    thread.join()
    assert (code, out) == (75, "")
    saved = "saved trial-0000, trial-0001; run the same command again to resume"
    assert err[-1] == f"distsent: stop requested: {number.name}; {saved}"
    assert {status_of(tmp_path, name)["state"] for name in trials(tmp_path)} == {"stopped"}
    code, _, err = run(*words[:2], "train.epochs=60", "--at-once", "2")
    assert code == 0 and err[0].startswith("trial-0000: resumes with optim.lr = ")
    for lines in trained(tmp_path).values():
        epochs = [line for line in lines if line.startswith("epoch")]
        assert epochs == [f"epoch {i}" for i in range(1, 61)] and len(lines) == 62


def test_two_sweeps_of_one_folder(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, top = files(tmp_path), tmp_path / "runs/job-sweep"
    monkeypatch.setenv("FAKE_SECONDS", "0")
    top.mkdir(parents=True)
    other = Claim.take(top, lambda: None)
    assert other is not None
    code, _, err = run(*words)
    assert code == 1 and len(err) == 1 and "another sweep works here right now" in err[0]
    assert not (top / "sweep.json").exists()
    assert run(*words, "--join", "--trials", "2")[0] == 0 and started(tmp_path) == 2
    other.release()

    # What another one trains is left to it, and taken over when its claim is given up
    held = Claim.take(top / "trial-0001/sweep", lambda: None)
    record = unfinish(top / "trial-0001")
    code, out, _ = run(*words, "--join")
    assert code == 0 and "no trial is left to start; others train the last ones" in out
    assert held is not None
    held.release()
    assert run(*words, "--join")[0] == 0 and trials(tmp_path)["trial-0001"] == record


def test_a_shared_sweep_is_replaced_only_after_all_controllers_have_ended(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them may have read the old job, and decided nothing yet."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, top = files(tmp_path), tmp_path / "runs/job-sweep"
    assert run(*words, "--join", "--trials", "1")[0] == 0
    shutil.rmtree(top / "trial-0000")
    code, _, err = run(*words, "--join", "optim.clip_norm=2")
    assert code == 2 and "has changed from 1.0 to 2.0" in err[0] and "without --join" in err[0]
    assert run(*words, "--trials", "1", "optim.clip_norm=2")[0] == 0


def test_what_a_start_may_change_counts_for_trials_of_earlier_starts(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep was moved, for example: its trials were trained in the old folder."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, trial = files(tmp_path), tmp_path / "moved/job-sweep/trial-0000"
    assert run(*words, "--trials", "1")[0] == 0
    os.rename(tmp_path / "runs", tmp_path / "moved")
    unfinish(trial)
    code, _, err = run(*words, "--trials", "1", f"run.dir={tmp_path}/moved", "checkpoint.keep=1")
    assert code == 0 and not (tmp_path / "runs").exists(), err
    job = load_job(trial / "job.toml")
    assert (job.run.dir, job.checkpoint.keep) == (str(trial.parent), 1)
    assert json.loads((trial / "sweep/trial.json").read_text())["state"] == "finished"


def unfinish(trial: Path) -> dict[str, Any]:
    """Have the record of a trial say that it has not ended. What it said before."""
    path = trial / "sweep/trial.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"state": "running", "value": None}))
    return dict(record)


def test_rows_that_change_during_a_sweep_are_noticed(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words = files(tmp_path, SPACE)
    assert run(*words, "--trials", "1")[0] == 0
    path = tmp_path / "runs/job-sweep/trial-0000/sweep/trial.json"
    path.write_text(path.read_text().replace('"rows": "', '"rows": "other'))
    assert run(*words, "--trials", "2")[0] == 0
    assert (
        "validation has other rows than in trial-0000" in trials(tmp_path)["trial-0001"]["reason"]
    )


def test_a_full_disk_ends_a_sweep_with_a_line_until_there_is_space(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, top, synced = files(tmp_path), tmp_path / "runs/job-sweep", trials_module.sync

    def full(path: Path) -> None:
        if ".trial-0001." in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(path)

    with monkeypatch.context() as patch:
        patch.setattr(trials_module, "sync", full)
        code, _, err = run(*words)
    assert code == 1 and err[-1].startswith(f"distsent: {top}: ") and "No space left" in err[-1]
    assert [*trials(tmp_path)] == ["trial-0000"] and not [*top.glob(".trial-*")]
    assert run(*words)[0] == 0 and started(tmp_path) == 6
    os.rename(top / "sweep.log", top / "moved")
    (top / "sweep.log").mkdir()
    code, _, err = run(*words)
    assert (code, len(err)) == (1, 1) and "Is a directory" in err[0]


def test_a_damaged_record_is_a_line(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of another trial's folder, for example: its number would be decided for ever."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, top = files(tmp_path), tmp_path / "runs/job-sweep"
    assert run(*words, "--trials", "2")[0] == 0
    trial = top / "trial-0001"
    record, about = trial / "sweep/trial.json", top / "sweep.json"
    damaged = f"{trial}: its sweep/trial.json is damaged; delete the folder"
    right = record.read_text()
    for path, text, line in [
        (record, "", damaged),
        (record, right[:40], damaged),
        (record, "[1]", damaged),
        (record, right.replace("finished", "done"), damaged),
        (record, right.replace('"state": "finished"', '"state": "running"'), damaged),
        (record, right.replace('"parameters": {', '"parameters": 1, "other": {'), damaged),
        (record, right.replace('"trial": 1', '"trial": 0'), f"{trial}: its sweep/trial.json is th"),
        (record, right.replace("optim.lr", "optim.x"), "in its sweep/trial.json is not in the spa"),
        (record, right.replace('"train.batch_size": ', '"train.batch_size": 1'), "is not in the s"),
        (about, '{"job": 1}', f"{about}: damaged; restore it"),
        (about, "{", f"{about}: not readable as JSON"),
    ]:
        before = path.read_text()
        path.write_text(text)
        code, out, err = run(*words)
        assert (code, out, len(err)) == (2, "", 1) and line in err[0], (text, err)
        path.write_text(before)
    record.unlink()
    assert f"{trial}: has no sweep/trial.json; delete the folder" in run(*words)[2][0]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "expected JOB.toml and SPACE.toml, found neither"),
        (("job.toml",), "expected JOB.toml and SPACE.toml, found job.toml"),
        (("job.toml", "space.toml", "x"), "found job.toml space.toml x"),
        (("job.toml", "space.toml", "--trials", "0"), "--trials 0: expected 1 to 10,000"),
        (("job.toml", "space.toml", "--at-once", "-1"), "--at-once -1: expected 1 to 1,024"),
        (("job.toml", "space.toml", "--np", "two"), "argument --np: invalid int value: 'two'"),
        (("job.toml", "none.toml"), "none.toml: no such file; a space has the values of each"),
        (("none.toml", "space.toml"), "none.toml: no such job file"),
        (("job.toml", "space.toml", "optim.lr=-1"), "optim.lr = -1: expected a number > 0"),
        (("job.toml", "space.toml", "optim.lr"), "found job.toml space.toml optim.lr"),
        (("job.toml", "space.toml", "data.source=./data/train.jsonl"), "validation"),
        (("job.toml", "space.toml", "job.name=run"), "is a run, not a sweep; choose another job.n"),
    ],
)
def test_a_wrong_command_line_is_a_line(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...], line: str,
) -> None:  # fmt: skip
    files(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/run-sweep").mkdir(parents=True)
    (tmp_path / "runs/run-sweep/job.json").write_text("{}")
    code, out, err = run(*words)
    assert (code, out) == (2, "") and line in err[0] and "Traceback" not in "".join(err), err
    assert not trials(tmp_path)


def test_under_a_launcher_and_without_optuna_a_sweep_says_so(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("distsent.search.sampling.find_spec", lambda name: None)
        lack = "distsent: a sweep needs Optuna: pip install 'distsent[sweep]'"
        assert run(*words)[2] == [lack]
    world = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**world, "MASTER_ADDR": "here", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    code, _, err = run(*words)
    assert code == 2 and "sweep starts workers itself (--np): start it alone" in err[0]


FOLDS = "[search]\nfolds = 3\n"


def rows_of(folder: Path, fold: int, name: str) -> list[dict[str, Any]]:
    path = folder / f"runs/job-sweep/folds/{fold}of3/{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_folds_are_trials_that_hold_out_each_row_once(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    assert run(*files(tmp_path, FOLDS))[0] == 0
    assert list(trials(tmp_path)) == [f"trial-0000-fold-{i}" for i in (1, 2, 3)]
    held_out = [rows_of(tmp_path, fold, "validation") for fold in (1, 2, 3)]
    pooled = sorted(json.dumps(row) for some in held_out for row in some)
    for fold, some in enumerate(held_out, 1):
        rest = rows_of(tmp_path, fold, "train")
        assert sorted(json.dumps(row) for row in [*some, *rest]) == pooled
        assert not {row["text"] for row in some} & {row["text"] for row in rest}
        assert {row["label"] for row in some} == set(fixtures.LABELS)
    given = [json.loads(line) for name in ("train", "validation")
             for line in (tmp_path / f"data/{name}.jsonl").read_text().splitlines()]  # fmt: skip
    assert sorted(row["text"] for row in given) == sorted(json.loads(row)["text"] for row in pooled)

    # With a space, each trial is trained on all folds, and compared by their mean
    again = tmp_path / "space"
    again.mkdir()
    words = files(again, FOLDS + "trials = 2\n[optim]\nlr = [1e-3, 1e-4]")
    code, out, _ = run(*words)
    names = [f"trial-000{n}-fold-{i}" for n in (0, 1) for i in (1, 2, 3)]
    assert code == 0 and list(trials(again)) == names
    assert "accuracy on validation, means over 3 folds ± their deviation." in out
    assert "| 0.9603 ± 0.0000 |    0.001 |" in out
    best = load_job(again / "runs/job-sweep/best.toml")
    assert (best.optim.lr, best.data.source) == (1e-3, f"{again}/data")


def test_the_only_text_of_a_class_is_in_the_training_of_all_folds(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, rare = files(tmp_path, FOLDS), {"text": "new", "label": "rare"}
    with open(tmp_path / "data/train.jsonl", "a", encoding="utf-8") as file:
        file.write(f"{json.dumps(rare)}\n" * 2)
    code, _, err = run(*words)
    said = "distsent: 2 rows not scored: without them, a fold would train without a class"
    assert code == 0 and said in err
    for fold in (1, 2, 3):
        assert rows_of(tmp_path, fold, "train").count(rare) == 2
        assert rare not in rows_of(tmp_path, fold, "validation")


def test_folds_are_drawn_anew_where_all_trials_failed(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows may have been the reason."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words = files(tmp_path, FOLDS + "sampler = 'grid'\n[optim]\nweight_decay = [0.2]\n")
    train = tmp_path / "data/train.jsonl"
    for text in ("", "w1 w2 new"):
        if text:
            lines = train.read_text().splitlines()
            train.write_text("\n".join([*lines, json.dumps({"text": text, "label": "bad"})]))
        assert run(*words)[0] == 2 and len(trained(tmp_path)) > 0
        rows = [row for fold in (1, 2, 3) for row in rows_of(tmp_path, fold, "validation")]
        assert any(row["text"] == text for row in rows) == bool(text)


@pytest.mark.parametrize("task", ["multi_label", "regression"])
def test_folds_of_other_tasks_are_jobs_of_the_same_labels(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    from distsent.data.dataset import open_dataset

    fixtures.task_corpus(tmp_path / "data")
    monkeypatch.setattr(controller, "training_command", lambda job, *_: ["true"])
    run(*files(tmp_path, FOLDS), *fixtures.TASKS[task])
    job = load_job(tmp_path / "runs/job-sweep/trial-0000-fold-1/job.toml")
    whole = load_job(tmp_path / "job.toml", fixtures.TASKS[task])
    expected, found = (open_dataset(one.data, 42) for one in (whole, job))
    assert found.label_names == expected.label_names and set(found.splits) == {
        "train", "validation",
    }  # fmt: skip
    labels = {text: label for split in ("train", "validation")
              for text, label in by_text(expected.splits[split]).items()}  # fmt: skip
    for split in found.splits.values():
        assert all(labels[text] == label for text, label in by_text(split).items())


def by_text(split: Any) -> dict[str, Any]:
    return dict(zip(split.texts(slice(None)), split.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    ("count", "workers", "cores", "quota", "gpus", "expected"),
    [
        (1, 1, 4, 4, 0, [("0123", 4, None)]),
        (2, 1, 4, 4, 0, [("01", 2, None), ("23", 2, None)]),
        (2, 2, 4, 4, 0, [("01", 1, None), ("23", 1, None)]),
        (3, 1, 4, 4, 0, [("0", 1, None), ("1", 1, None), ("23", 2, None)]),
        (3, 1, 2, 2, 0, [("0", 1, None), ("1", 1, None), ("0", 1, None)]),
        (2, 1, 8, 2, 0, [("0123", 1, None), ("4567", 1, None)]),
        (2, 2, 4, 4, 4, [("01", 1, "01"), ("23", 1, "23")]),
        (3, 1, 3, 3, 2, [("0", 1, "0"), ("1", 1, "1"), ("2", 1, "0")]),
    ],
)
def test_cores_and_gpus_are_shared_out(
    count: int, workers: int, cores: int, quota: int, gpus: int, expected: list[tuple[Any, ...]]
) -> None:
    slots = share(count, workers, range(cores), quota, [str(i) for i in range(gpus)])
    found = [
        ("".join(map(str, s.cores)), s.threads, None if s.gpus is None else "".join(s.gpus))
        for s in slots
    ]
    assert found == expected


def test_gpus_are_those_that_the_user_left_visible(tmp_path: Path) -> None:
    for text, gpus in (("0,1", ["0", "1"]), (" GPU-ab , 3", ["GPU-ab", "3"]), ("", []), ("-1", [])):
        assert visible_gpus({"CUDA_VISIBLE_DEVICES": text}) == gpus
    assert visible_gpus({}, tmp_path) == []


def test_a_start_with_a_name_leaves_its_status(
    tmp_path: Path, run: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the exit policy: a time limit that lets no trial save is a failure."""
    monkeypatch.setenv("FAKE_SECONDS", "0")
    words, starts = files(tmp_path), tmp_path / "runs/job-sweep/starts"
    found = []
    for name, trials_ in (("first", "1"), ("second", "2"), ("third", "2")):
        monkeypatch.setenv("DISTSENT_ATTEMPT", name)
        assert run(*words, "--trials", trials_)[0] == 0
        found.append(read_status(starts / name / "status.json"))
    assert [one and (one.state, one.progressed) for one in found] == [
        ("finished", True), ("finished", True), ("finished", False),
    ]  # fmt: skip
    monkeypatch.setenv("DISTSENT_ATTEMPT", "fourth")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    assert run(*files(wrong, failing("0.3")))[0] == 3
    status = read_status(wrong / "runs/job-sweep/starts/fourth/status.json")
    assert status is not None and (status.code, status.retry) == (3, False)
    assert "this is wrong with 0.3" in status.message
