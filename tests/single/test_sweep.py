"""Sweeps from their start to the best job, with a trainer that trains nothing (tests/sweeps.py)."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distsent import cli, sweep
from distsent.job import load_job
from distsent.search import machine
from tests import sweeps
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
