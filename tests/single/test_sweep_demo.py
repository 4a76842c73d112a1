"""A sweep whose trials really train: two folds of the demo, more at once than cores."""

from __future__ import annotations

import json
import os
from pathlib import Path
from statistics import fmean, stdev

import pytest

from distsent import sweep
from distsent.job import load_job

KEYS = (
    "job.name=job", "train.max_steps=3", "train.batch_size=16", "eval.every=end",
    "log.tensorboard=false", "data.max_rows=64", "data.max_eval_rows=32",
)  # fmt: skip


def test_folds_of_the_demo_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.toml").write_text("# a comment\n[train] # another\nepochs = 1\n")
    Path("space.toml").write_text("[search] # of nothing else\nfolds = 2\n")
    at_once = str(len(os.sched_getaffinity(0)) + 1)
    assert sweep.main(["job.toml", "space.toml", *KEYS, "--at-once", at_once]) == 0
    out, err = capfd.readouterr()
    assert f"{at_once} workers at once share {int(at_once) - 1} cores" in err
    top = Path("runs/job-sweep")
    (trial,) = json.loads((top / "trials.json").read_text())["trials"]
    folds = [json.loads((Path(run) / "result.json").read_text()) for run in trial["runs"]]
    assert [fold["eval"]["validation"]["accuracy"] for fold in folds] == trial["folds"]
    assert (trial["value"], trial["spread"]) == (fmean(trial["folds"]), stdev(trial["folds"]))
    assert len({fold["texts"]["validation"] for fold in folds}) == 2
    assert f"| {trial['value']:.4f} ± {trial['spread']:.4f} |" in out
    best = load_job(str(top / "best.toml"))
    assert (best.data.source, best.job.name, best.train.max_steps) == ("demo", "job-best", 3)
