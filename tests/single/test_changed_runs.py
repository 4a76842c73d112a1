"""Finished runs whose job or files have changed since, and weights that are not numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from distsent.distributed.world import World
from distsent.errors import NonFinite, UserError
from distsent.evaluation.predictor import find_model_folder
from distsent.job import load_job
from distsent.runtime.checkpoint import list_checkpoints
from distsent.training.session import TrainingRun
from tests import fixtures
from tests.parallel.driver import NoSignals


def job(folder: Path, *more: str) -> list[str]:
    """A run named `it`, of 4 steps with two evaluations."""
    base = [
        f"data.source={folder / 'corpus'}", f"model.name={folder / 'model'}",
        f"run.dir={folder / 'runs'}", "job.name=it", "data.max_length=40", "train.batch_size=8",
        "train.max_steps=4", "eval.every=2", "log.tensorboard=false", "optim.lr=5e-3",
    ]  # fmt: skip
    return list({word.partition("=")[0]: word for word in (*base, *more)}.values())


def train(folder: Path, *more: str) -> None:
    TrainingRun(load_job(None, job(folder, *more)), World(), NoSignals()).train()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    fixtures.corpus(folder / "corpus", train=48, validation=12, test=6)
    fixtures.model(folder / "model")
    train(folder)
    shutil.copytree(folder / "runs/it", folder / "saved")
    return folder


@pytest.fixture
def run(trained: Path) -> Path:
    """The finished run, as it was at its end."""
    shutil.rmtree(trained / "runs/it")
    return Path(shutil.copytree(trained / "saved", trained / "runs/it"))


def test_the_best_of_another_metric_is_not_kept(trained: Path, run: Path) -> None:
    assert fixtures.result(run)["best"]["value"] >= 0, "the accuracy"
    train(trained, "eval.metric=loss", "train.max_steps=8", "run.resume=changed")
    result = fixtures.result(run)
    losses = {line["step"]: line["loss"] for line in result["history"] if line["step"] >= 4}
    step = min(losses, key=losses.__getitem__)
    assert result["best"] == {"step": step, "value": -losses[step]}
    assert "eval.metric changed: the best weights are chosen" in (run / "train.log").read_text()


def test_a_start_that_saves_nothing_does_not_bring_the_best_of_another_metric_back(
    trained: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    words = "eval.metric=loss", "train.max_steps=8", "run.resume=changed"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("distsent.training.train_step.TrainStep.__call__", die)
        train(trained, *words)
    train(trained, *words)
    assert fixtures.result(run)["best"]["value"] < 0, "a negated loss"


def test_other_rows_of_validation_are_another_score(trained: Path, run: Path) -> None:
    rows = trained / "corpus/validation.jsonl"
    before = rows.read_text()
    try:
        rows.write_text("".join(before.splitlines(keepends=True)[:6]))
        train(trained, "train.max_steps=6", "run.resume=changed")
    finally:
        rows.write_text(before)
    assert fixtures.result(run)["best"]["step"] >= 4
    assert "the rows of validation changed: the best" in (run / "train.log").read_text()


def test_a_run_that_is_longer_than_its_changed_job_says_so(trained: Path, run: Path) -> None:
    train(trained, "train.max_steps=3", "run.resume=changed")
    words = "it was trained for 4 steps already, 1 more than this job asks for; run.resume=never"
    assert words in (run / "train.log").read_text()


@pytest.mark.parametrize("wrong", ["adapter.kind=lora", "data.max_length=300"])
def test_a_change_that_does_not_fit_leaves_the_finished_run(
    wrong: str, trained: Path, run: Path
) -> None:
    before = {name: (run / name).read_bytes() for name in ("job.json", "result.json")}
    with pytest.raises(UserError, match=r"does not fit this job|takes at most"):
        train(trained, wrong, "run.resume=changed")
    assert {name: (run / name).read_bytes() for name in before} == before
    train(trained)  # finished


def test_damaged_records_do_not_cost_a_run(trained: Path, run: Path) -> None:
    before = fixtures.result(run)
    (run / "result.json").write_text("")
    train(trained)
    assert fixtures.result(run)["weights_sha256"] == before["weights_sha256"]
    (run / "job.json").write_text("")
    with pytest.raises(UserError, match=r"job.json: not readable as JSON .*; restore it, or run\."):
        train(trained)
    train(trained, "run.resume=changed")
    assert fixtures.result(run)["weights_sha256"] == before["weights_sha256"]
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").write_text("")
    with pytest.raises(UserError, match=r"result.json: not readable .* run\.resume=never"):
        train(trained)


def test_a_model_that_was_deleted_is_made_again(trained: Path, run: Path) -> None:
    shutil.rmtree(run / "model")
    with pytest.raises(UserError, match=r"is gone; run its training command again$"):
        find_model_folder(run)
    train(trained)
    assert find_model_folder(run) == run / "model"
    shutil.rmtree(run / "model")
    shutil.rmtree(run / "checkpoints")
    train(trained)  # its scores are still there
    with pytest.raises(UserError, match=r"is gone; .* with run\.resume=never$"):
        find_model_folder(run)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("optim.eps=1e-300", "step 1: the weights are not finite after the update"),
        ("optim.lr=1e30", "no row of validation has a finite score"),
    ],
)
def test_weights_that_are_not_numbers_are_no_model(key: str, words: str, trained: Path) -> None:
    with pytest.raises(NonFinite, match=words):
        train(trained, key, "job.name=bad", "train.max_steps=1", "run.resume=never")
    run = trained / "runs/bad"
    assert not (run / "model").exists() and not (run / "result.json").exists()
    if "after the update" in words:
        assert not list_checkpoints(run / "checkpoints")


def test_an_earlier_run_is_there_until_the_one_that_replaces_it_can_train(
    trained: Path, run: Path
) -> None:
    before = {path: path.read_bytes() for path in run.glob("*/**/*") if path.is_file()}
    with pytest.raises(UserError, match=r"data\.text_column"):
        train(trained, "data.text_column=nothing", "run.resume=never")
    assert before == {path: path.read_bytes() for path in run.glob("*/**/*") if path.is_file()}
    train(trained)
    assert fixtures.result(run)["steps"] == 4, "it is finished, as before"
    train(trained, "train.max_steps=2", "run.resume=never")
    assert fixtures.result(run)["steps"] == 2
    assert [path.name for path in list_checkpoints(run / "checkpoints")] == ["step-00000002"]
