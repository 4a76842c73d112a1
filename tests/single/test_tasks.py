"""Several labels per text, and numbers: from training to predictions and reports."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForSequenceClassification, pipeline

from distsent import evaluate, report
from distsent.data.tokens.store import TokenStore
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation.predictor import Predictor
from distsent.evaluation.tasks.choose import TASKS
from distsent.evaluation.tasks.multi_label import MultiLabel
from distsent.evaluation.tasks.regression import Regression
from distsent.job import load_job
from distsent.job.metrics import LOWER_IS_BETTER, METRICS
from distsent.reporting.finished_run import read_run
from distsent.reporting.tasks.paired import holm, mcnemar
from distsent.training.loop import metric_value
from tests import fixtures, systems
from tests.parallel.driver import drive, entry

TEXTS = [str(row["text"]) for row in fixtures.task_rows(7, seed=3)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of finished runs: each task, and `number`, a regression of one column."""
    folder = tmp_path_factory.mktemp("tasks")
    corpus = fixtures.task_corpus(folder / "corpus")
    encoder = systems.encoder(folder / "encoder", "bert")
    base = [
        f"data.source={corpus}", f"model.name={encoder}", f"run.dir={folder / 'runs'}",
        "data.max_length=40", "train.batch_size=12", "train.epochs=2", "optim.lr=5e-3",
    ]  # fmt: skip
    several, numbers = fixtures.TASKS.values()
    one = ["data.task=regression", "data.label_column=value", "log.tensorboard=false"]
    weighted = ["train.class_weights=balanced", "train.label_smoothing=0.1"]
    lora = ["adapter.kind=lora", "log.tensorboard=false"]
    drive(
        [
            entry("multi_label", [*base, *several]),
            entry("weighted", [*base, *several, *weighted, *lora]),
            entry("regression", [*base, *numbers]),
            entry("number", [*base, *one]),
        ],
        World(),
        complete=True,
    )
    return folder / "runs"


@pytest.mark.parametrize("name", ["multi_label", "weighted", "regression", "number"])
def test_the_pipeline_gives_the_scores_of_predict(runs: Path, name: str) -> None:
    answers = Predictor(runs / name)(TEXTS)
    classify = pipeline("text-classification", str(runs / name / "model"), top_k=None)
    for answer, scores in zip(answers, classify(TEXTS), strict=True):
        expected = {one["label"]: one["score"] for one in scores}
        if name == "number":
            assert answer == {"value": pytest.approx(expected["value"], abs=1e-5)}
        elif name == "regression":
            assert answer == {"values": pytest.approx(expected, abs=1e-5)}
        else:
            assert answer["scores"] == pytest.approx(expected, abs=1e-5)
            assert answer["labels"] == [key for key, s in answer["scores"].items() if s > 0.5]


@pytest.mark.parametrize("name", ["multi_label", "regression", "number"])
def test_a_saved_model_is_evaluated_by_its_own_task(
    runs: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With its job, and without one, as from the hub: `problem_type` says what it does."""
    result = fixtures.result(runs / name)
    task = "regression" if name == "number" else name
    expected = {key: result["eval"]["test"][key] for key in TASKS[task].scalars}
    alone = shutil.copytree(runs / name / "model", tmp_path / "model")
    data = result["job"]["data"]
    source = [f"data.source={data['source']}/test.jsonl", "data.max_length=40"]
    column = f"data.label_column={data['label_column']}"
    if data["label_columns"]:
        column = f"data.label_columns=[{', '.join(data['label_columns'])}]"
    for words in ([str(runs / name)], [str(alone), *source, column]):
        assert evaluate.main(words) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-5)
        for low, high in found["intervals"].values():
            assert low <= high
    assert Predictor(alone)(TEXTS) == Predictor(runs / name)(TEXTS)
    with pytest.raises(UserError, match=f"this model's task is '{task}'; leave data.task out"):
        evaluate.main([str(runs / name), "data.task=single_label"])


def test_a_model_whose_task_is_open_is_refused(tmp_path: Path) -> None:
    systems.encoder(tmp_path, "bert")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=1)
    kinds = {None: True, "regression": False, "multi_label_classification": False}
    for kind, refused in kinds.items():
        model.config.problem_type = kind
        model.save_pretrained(tmp_path)
        if refused:
            with pytest.raises(UserError, match="may mean a number or a yes or no by it"):
                Predictor(tmp_path)
        else:
            (answer,) = Predictor(tmp_path)(TEXTS[:1])
            assert set(answer) == ({"value"} if kind == "regression" else {"labels", "scores"})


@pytest.mark.parametrize("name", ["multi_label", "regression"])
def test_reports_of_a_task(
    runs: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its own scores as markdown, csv and json; its picture, card and TensorBoard pages."""
    main, other = (runs / name, runs / {"multi_label": "weighted"}.get(name, "multi_label"))
    scores, task = fixtures.result(main)["eval"]["test"], TASKS[name]
    assert report.main([str(main), str(other), "--pictures", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert all(f"{scores[key]:.4f}" in text for key in (*task.main, "loss"))
    assert ("untested: their tasks differ" in text) == (name == "regression")
    picture = {"multi_label": "confusion", "regression": "values"}[name]
    assert (tmp_path / f"{picture}-{name}.png").stat().st_size > 5000
    assert report.main([str(main), str(other), "--format", "csv"]) == 0
    row = next(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {key: float(row[key]) for key in task.scalars} == {k: scores[k] for k in task.scalars}
    assert report.main([str(main), str(other), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["runs"][0]["loss"] == scores["loss"]

    card = ModelCard.load(main / "model" / "README.md")
    found = {one.metric_type for one in card.data.eval_results}
    assert found >= {"loss", "f1_macro"} if name == "multi_label" else {"loss", "rmse"}
    part = {"multi_label": "label", "regression": "column"}[name]
    assert f"## Scores per {part}" in card.text and f"({picture}-test.png)" in card.text
    assert (main / "model" / f"{picture}-test.png").exists()
    events = EventAccumulator(str(main / "tensorboard"), size_guidance={"images": 0}).Reload()
    for key in task.scalars:
        (one,) = events.Scalars(f"final/test/{key}")
        assert one.value == pytest.approx(scores[key], rel=1e-6)
    drawn = {f"{picture}/validation", f"{picture}/test"}
    drawn |= {"reliability/test"} if name == "multi_label" else set()
    assert set(events.Tags()["images"]) == drawn
    assert ("Not measured: a number comes without a score." in card.text) == (name == "regression")


def test_a_score_that_is_not_defined_is_null(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As no other program reads NaN."""
    rows = [row for row in fixtures.task_rows(29, seed=2) if "rare" not in row["labels"]]
    path = fixtures.jsonl(tmp_path / "x.jsonl", rows)
    assert evaluate.main([str(runs / "multi_label"), f"data.source={path}"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["per_label"]["rare"]["auc"] is None and found["per_label"]["good"]["auc"] > 0
    run = shutil.copytree(runs / "multi_label", tmp_path / "run")
    result = fixtures.result(run)
    result["eval"]["test"]["auc_macro"] = math.nan
    (run / "result.json").write_text(json.dumps(result))
    assert report.main([str(run), "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found["runs"][0]["auc_macro"] is None


def test_mistakes_of_each_task(runs: Path) -> None:
    run = read_run(runs / "multi_label")
    kept, mistakes = run.predictions("test"), run.mistakes("test")
    wrong = (kept.logits > 0) != (kept.labels > 0)
    assert len(mistakes) == wrong.any(1).sum() > 0
    sure = [abs(one["score"] - 0.5) for one in mistakes]
    assert sure == sorted(sure, reverse=True)
    rows = fixtures.task_rows(29, seed=2)
    for one in mistakes:
        row = rows[one["row"] - 1]
        assert {*one["labels"]} == {*row["labels"]} and one["text"] == row["text"]
        assert (one["worst"] in one["labels"]) != (one["worst"] in one["predicted"])
    first, *_ = run = read_run(runs / "number").mistakes("test")
    assert first["error"] == pytest.approx(abs(first["predicted"] - first["value"]))
    assert [one["error"] for one in run] == sorted((x["error"] for x in run), reverse=True)
    first = read_run(runs / "regression").mistakes("test")[0]
    assert set(first["value"]) == set(first["predicted"]) == {"value", "length"}


def test_two_models_are_compared_label_by_label_and_by_their_errors() -> None:
    from distsent.reporting.tasks.choose import report_of

    rng = np.random.default_rng(0)
    truth = (rng.random((300, 3)) < 0.4).astype(np.uint8)

    def noisy(wrong: Sequence[float]) -> np.ndarray:
        flip = rng.random(truth.shape) < np.array(wrong)
        return np.where(flip, 0.5 - truth, truth - 0.5).astype(np.float32)

    a, b = noisy([0.3, 0.2, 0.2]), noisy([0.05, 0.2, 0.2])
    found = report_of(MultiLabel(("x", "y", "z"))).compare(truth, a, b)
    assert found["f1_macro"] > found["f1_macro_interval"][0] > 0 and found["f1_macro_p"] < 0.01
    right = [(logits > 0) == truth for logits in (a, b)]
    for i, one in enumerate(found["per_label"].values()):
        only = int((right[0] & ~right[1])[:, i].sum()), int((~right[0] & right[1])[:, i].sum())
        assert (one["only_a"], one["only_b"]) == only and one["mcnemar"] == mcnemar(*only)
    assert found["per_label"]["x"]["holm"] < 0.01 < found["per_label"]["y"]["holm"]
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])

    values = rng.normal(5, 1, (400, 2))
    a, b = (values + rng.normal(0, s, values.shape) for s in (1.0, 0.7))
    pair = report_of(Regression(("x", "y"))).compare(
        values, *(x.astype(np.float32) for x in (a, b))
    )
    assert pair["mae"] == pytest.approx(np.abs(b - values).mean() - np.abs(a - values).mean())
    assert pair["mae_interval"][1] < 0 and pair["mae_p"] < 0.01 and pair["rmse"] < 0


def test_intervals_are_those_of_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(100, 1, (300, 1))
    predicted = (truth + rng.normal(0, 0.5, truth.shape)).astype(np.float32)
    draws = [rng.integers(0, 300, 300) for _ in range(2000)]
    found = Regression(("x",)).intervals({}, predicted, truth)
    x, y = predicted[:, 0].astype(np.float64), truth[:, 0]
    for key, score in (("mae", lambda i: np.abs(x[i] - y[i]).mean()),
                       ("pearson", lambda i: stats.pearsonr(x[i], y[i]).statistic)):  # fmt: skip
        expected = np.quantile([score(rows) for rows in draws], [0.025, 0.975])
        assert found[key] == pytest.approx(tuple(expected), abs=0.01)


def test_losses_are_those_of_torch() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 3, generator=rng)
    labels = (torch.rand(6, 3, generator=rng) < 0.5).float()
    weights = torch.tensor([1.0, 4.0, 0.5])
    several = MultiLabel(("a", "b", "c"))
    plain = torch.nn.BCEWithLogitsLoss(pos_weight=weights)
    assert several.losses(logits, labels, 0.0, weights).mean() == pytest.approx(
        plain(logits, labels).item(), rel=1e-6
    )
    smooth = torch.where(labels > 0, 0.9, 0.1)
    assert several.losses(logits, labels, 0.2).mean() == pytest.approx(
        torch.nn.BCEWithLogitsLoss()(logits, smooth).item(), rel=1e-6
    )
    counts = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 0]], np.uint8)
    assert several.balanced_weights(counts).tolist() == [1, 1, 2]
    assert Regression(("a", "b", "c")).losses(logits, labels).mean() == pytest.approx(
        torch.nn.MSELoss()(logits, labels).item(), rel=1e-6
    )


def test_each_task_has_its_metrics_and_a_default() -> None:
    assert {name: {*task.scalars} for name, task in TASKS.items()} == {
        name: {*keys} for name, keys in METRICS.items()
    }
    defaults = {"single_label": "accuracy", "multi_label": "f1_micro", "regression": "rmse"}
    for task, default in defaults.items():
        assert load_job(None, [f"data.task={task}"]).eval.metric == default
    for keys in METRICS.values():
        for key in keys:
            better = metric_value({key: 0.1}, key) > metric_value({key: 0.2}, key)
            assert better == (key in LOWER_IS_BETTER)


@pytest.mark.parametrize(("words", "line"), [
    (["data.task=multi_label", "eval.metric=accuracy"],
     'eval.metric = "accuracy": is no metric of data.task = "multi_label", which has f1_micro, '
     "f1_macro, f1_weighted, f1_samples, subset_accuracy, map, auc_macro, loss"),
    (["eval.metric=rmse"], 'eval.metric = "rmse": is no metric of data.task = "single_label"'),
    (["data.task=regression", "train.label_smoothing=0.1"],
     'train.label_smoothing = 0.1: has no meaning for data.task = "regression", only for'),
    (["data.task=regression", "eval.calibrate=true"],
     'eval.calibrate = true: has no meaning for data.task = "regression", only for'),
    (["data.task=regression", "train.class_weights=balanced"],
     'train.class_weights = "balanced": has no meaning for data.task = "regression", only for'),
])  # fmt: skip
def test_what_a_task_has_not_is_refused(words: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_job(None, words)
    assert line in str(caught.value)


def test_the_store_keeps_the_numbers_unrounded(runs: Path) -> None:
    (store,) = [
        one
        for one in map(TokenStore.open, (runs / ".tokens").glob("[0-9a-f]*"))
        if one.task == "regression" and len(one.label_names) == 1
    ]
    saved = read_run(runs / "number").predictions("test")
    assert saved.labels.dtype == np.float64
    expected = [[row["value"]] for row in fixtures.task_rows(29, seed=2)]
    assert saved.labels.tolist() == store.splits["test"].labels.tolist() == expected
