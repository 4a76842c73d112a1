"""Several labels per text: a temperature and a threshold for each, against scipy and scikit-learn.

From logits to result.json, model folder, predict and report.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn import metrics as sklearn
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import pipeline

from distsent import predict, report
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.evaluation import confidence
from distsent.evaluation.calibration import (
    AT_ONCE,
    Reliability,
    error_interval,
    expected_error,
    fit_label_temperature,
)
from distsent.evaluation.chosen_thresholds import choose_thresholds, write_thresholds
from distsent.evaluation.confidence import Confidence, assess
from distsent.evaluation.predictor import Predictor
from distsent.evaluation.tasks.multi_label import MultiLabel
from distsent.evaluation.tasks.regression import Regression
from distsent.evaluation.thresholds import TARGETS, Curve, Target
from tests import fixtures, systems
from tests.parallel.conftest import but
from tests.parallel.driver import drive, entry

TASK = MultiLabel(("often", "seldom", "blurred", "never"))
TEXTS = [str(row["text"]) for row in fixtures.task_rows(20, seed=9)]


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of four labels, each scaled by another factor, and labels drawn from them."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4)) * 2 + [0, -4, -1, -3]
    labels = rng.random((n, 4)) < expit(logits)
    labels[:, 3] = False
    return (logits * [3.0, 0.5, 1.7, 1.0]).astype(np.float32), labels.astype(np.uint8)


SPLITS = {"test": drawn(701, seed=2), "validation": drawn(803, seed=1)}


@pytest.mark.parametrize("seed", range(3))
def test_each_temperature_has_the_lowest_loss_of_its_label(seed: int) -> None:
    logits, labels = drawn(499, seed)
    order = np.random.default_rng(1).permutation(499)
    again = TASK.temperatures(logits[order], labels[order])
    for i, found in enumerate(TASK.temperatures(logits, labels)[:3]):
        z, y = logits[:, i].astype(np.float64), labels[:, i]
        slope = lambda inverse: float(np.mean(z * (expit(inverse * z) - y)))  # noqa: B023, E731
        assert found.reason is None
        assert 1 / found.value == pytest.approx(brentq(slope, 1e-3, 1e3, xtol=1e-15), rel=1e-10)
        assert found.value == pytest.approx(again[i].value, rel=1e-11)


def test_a_label_that_tells_nothing_keeps_its_scores() -> None:
    z = np.array([-2.0, -1.0, 1.0, 2.0], np.float32)
    cases = {
        "no row": (z, [0, 0, 0, 0], 1.0, "none of 4 rows have it"),
        "all rows": (z, [1, 1, 1, 1], 1.0, "all of 4 rows have it"),
        "all right": (z, [0, 0, 1, 1], 1.0, "4 of 4 rows are right"),
        "all wrong": (z, [1, 1, 0, 0], 1.0, "say nothing"),
        "not finite": (z * [1, 1, 1, np.nan], [0, 0, 0, 0], None, "1 of 4 rows have no score"),
    }
    for name, (logits, has, value, reason) in cases.items():
        found = fit_label_temperature(logits.astype(np.float32), np.array(has, bool))
        assert found.value == value and reason in found.reason, name
    names = [f"l{i}" for i in range(6)]
    splits = {"validation": (np.tile(z[:, None], 6), np.zeros((4, 6), np.uint8))}
    line = "calibration: temperature 1, no change, for 6 of 6 labels: l0 (none of 4 rows have it), "
    (first, _) = assess(MultiLabel(tuple(names)), splits, False, "float32").lines
    assert first.startswith(line) and first.endswith(", 3 more")


def test_the_error_is_the_classwise_one_with_the_interval_of_resampled_rows() -> None:
    logits, labels = SPLITS["test"]
    scores, has = TASK.confidences(logits, labels, np.ones(4))
    assert scores == pytest.approx(expit(logits), abs=1e-6) and (has == labels).all()
    expected = []
    for s, y in zip(scores.T, labels.T, strict=True):
        bins = np.ceil(s.astype(np.float64) * 15).clip(1)
        expected.append(sum(abs((y - s)[bins == b].sum()) for b in range(1, 16)) / len(s))
    assert expected_error(scores, has) == pytest.approx(np.mean(expected), abs=1e-6)
    rng = np.random.default_rng(5)
    picks = [rng.integers(0, 701, 701) for _ in range(500)]
    errors = np.array([expected_error(scores[x], has[x]) for x in picks])
    low, high = error_interval(scores, has)
    found = np.array([low, high]) - expected_error(scores, has)
    assert found == pytest.approx(np.quantile(errors, [0.025, 0.975]) - errors.mean(), abs=0.003)
    with patch("distsent.evaluation.calibration.AT_ONCE", 1):  # a label at a time: the same draws
        assert AT_ONCE > 1 and error_interval(scores, has) == pytest.approx((low, high), abs=1e-12)


def best_f1(scores: np.ndarray, has: np.ndarray) -> tuple[float, np.ndarray]:
    """The best F1 in scikit-learn's curve, and which rows get the label with it, fewest."""
    precision, recall, at = sklearn.precision_recall_curve(has, scores)
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-300)
    best = np.flatnonzero(f1 >= f1.max() - 1e-12)[-1]
    return float(f1.max()), scores >= at[best]


@pytest.mark.parametrize(("n", "levels", "share"), [
    (1, None, 1), (9, None, 0.3), (300, None, 0.5), (4000, None, 0.4), (500, 7, 0.2),
    (60, 1, 0.5), (50, None, 1), (5000, None, 0.001),
])  # fmt: skip
def test_thresholds_are_those_of_scikit_learns_curve(
    n: int, levels: int | None, share: float
) -> None:
    """Also with more rows than a curve has points; equal scores are given the label together."""
    rng = np.random.default_rng(n)
    scores = rng.random(n) if levels is None else rng.integers(1, levels + 1, n) / (levels + 1)
    scores = scores.astype(np.float32)
    has = rng.random(n) < share * (0.5 + scores if share < 1 else 1)
    has[0] = True
    curve = Curve.from_dict(json.loads(json.dumps(Curve.of_label(scores, has).to_dict())))
    precision, recall, at = sklearn.precision_recall_curve(has, scores)
    known = dict(zip(recall[:-1].tolist(), zip(precision, at, strict=False), strict=True))
    for i in range(len(curve.threshold)):  # `known` has the highest score of each recall
        p, score = known[curve.recall[i]]
        assert curve.precision[i] == pytest.approx(p, abs=1e-10)
        assert ((scores >= curve.threshold[i]) == (scores >= score)).all()
    f1, given = best_f1(scores, has)
    assert ((scores >= Target().threshold(curve)) == given).all()
    assert sklearn.f1_score(has, given) == pytest.approx(f1, abs=1e-10)
    for target in (0.1, 0.4, 0.7, 1.0):
        reached = recall[:-1][precision[:-1] >= target]
        found = scores >= Target(min_precision=target).threshold(curve)
        assert found.any() == bool(len(reached[reached > 0]))
        if found.any():
            assert sklearn.precision_score(has, found) >= target - 1e-12
            # At most a 256th of the points is between two that a curve keeps
            assert sklearn.recall_score(has, found) >= reached.max() - 1 / 250
        found = scores >= Target(min_recall=target).threshold(curve)
        assert sklearn.recall_score(has, found) >= target - 1e-12


def test_a_label_without_rows_has_a_rule() -> None:
    curve = Curve.of_label(np.array([0.9, 0.1], np.float32), np.array([False, False]))
    again = Curve.from_dict(json.loads(json.dumps(curve.to_dict())))
    for one in (curve, again):
        assert (len(one.threshold), one.positive, one.n) == (0, 0, 2)
        assert Target().threshold(one) == 0.5
        for target in (Target(0.0), Target(0.9), Target(None, 0.0), Target(0.5, 0.5)):
            assert target.threshold(one) == np.inf


def check(found: Confidence, calibrate: bool = False) -> None:
    """The result says of test what thresholds and temperatures of validation do there."""
    temperature = [one.value for one in TASK.temperatures(*SPLITS["validation"])]
    calibration = found.result["calibration"]
    assert calibration["temperature"] == temperature and temperature[3] == 1
    assert temperature[0] == pytest.approx(3, rel=0.2)
    assert temperature[1] == pytest.approx(0.5, rel=0.3)
    logits, labels = SPLITS["test"]
    before = TASK.confidences(logits, labels, np.ones(4))
    after = TASK.confidences(logits, labels, np.array(temperature))
    assert (calibration["split"], calibration["n"], calibration["folded"]) == (
        "test", 701, calibrate,
    )  # fmt: skip
    for key, scores in (("ece_before", before), ("ece_after", after)):
        assert calibration[key] == expected_error(*scores)
        assert list(calibration["per_label"]) == list(TASK.names)
        for i, one in enumerate(calibration["per_label"].values()):
            assert one[key] == Reliability.of(scores[0][:, i], scores[1][:, i]).error
    assert calibration["ece_after"] < 0.6 * calibration["ece_before"]
    assert found.temperature.tolist() == (temperature if calibrate else [1.0] * 4)

    scores, has = TASK.confidences(logits, labels, found.temperature)
    fitted = TASK.confidences(*SPLITS["validation"], found.temperature)
    at = [Target().threshold(Curve.of_label(s, y)) for s, y in zip(*(x.T for x in fitted))]  # noqa: B905
    given, thresholds = scores >= at, found.result["thresholds"]
    for average in ("micro", "macro", "weighted", "samples"):
        f1 = sklearn.f1_score(labels, given, average=average, zero_division=0)
        assert thresholds[f"f1_{average}"] == pytest.approx(f1, abs=1e-10)
    assert thresholds["subset_accuracy"] == sklearn.accuracy_score(labels, given)
    low, high = thresholds["f1_macro_interval"]
    assert low < thresholds["f1_macro"] < high
    at_half = sklearn.f1_score(labels, scores > 0.5, average="macro", zero_division=0)
    assert thresholds["f1_macro"] > at_half
    columns = sklearn.precision_recall_fscore_support(labels, given, zero_division=0)
    for i, (name, one) in enumerate(thresholds["per_label"].items()):
        assert (name, one["threshold"]) == (TASK.names[i], at[i])
        assert [one[key] for key in ("precision", "recall", "f1", "n")] == pytest.approx(
            [column[i] for column in columns], abs=1e-10
        )
    assert at[3] == 0.5
    check_targets(found.result["decisions"], scores, has, fitted)


def check_targets(decisions: dict[str, Any], scores: Any, has: Any, fitted: Any) -> None:
    assert (decisions["split"], decisions["n"]) == ("test", 701)
    assert [one["min_precision"] for one in decisions["targets"]] == list(TARGETS)
    curves = [Curve.of_label(s, y) for s, y in zip(fitted[0].T, fitted[1].T, strict=True)]
    for one in decisions["targets"]:
        points = [curve.lowest(one["min_precision"]) for curve in curves]
        assert one["never"] == [x for x, i in zip(TASK.names, points, strict=True) if i is None]
        assert one["labels"] == 4 - len(one["never"]) and "never" in one["never"]
        at = [np.inf if i is None else c.threshold[i] for c, i in zip(curves, points, strict=True)]
        given = scores >= at
        assert one["coverage"] == given.any(1).mean()
        assert one["precision"] == pytest.approx(
            sklearn.precision_score(has, given, average="micro"), abs=1e-10
        )
        assert one["recall"] == pytest.approx(
            sklearn.recall_score(has, given, average="micro"), abs=1e-10
        )
        low, high = one["precision_interval"]
        assert low <= one["precision"] <= high


@pytest.mark.parametrize("calibrate", [False, True])
def test_it_is_fitted_on_validation_and_measured_on_test(calibrate: bool) -> None:
    check(assess(TASK, SPLITS, calibrate, "float32"), calibrate)


def one_for_all_labels() -> AbstractContextManager[Any]:
    """A single temperature, of all labels together."""

    def wrong(self: MultiLabel, logits: np.ndarray, labels: np.ndarray) -> list[Any]:
        return [fit_label_temperature(logits.ravel(), labels.ravel() > 0)] * len(self.names)

    return patch.object(MultiLabel, "temperatures", wrong)


def fitted_on_test() -> AbstractContextManager[Any]:
    return patch.object(confidence, "FITTED_ON", "test")


def thresholds_of_logits() -> AbstractContextManager[Any]:
    """Thresholds of scores are compared with logits."""
    real = MultiLabel.measured

    def wrong(self: MultiLabel, curves: Any, scores: np.ndarray, true: np.ndarray) -> Any:
        return real(self, curves, np.log(scores / (1 - scores)), true)

    return patch.object(MultiLabel, "measured", wrong)


def before_the_temperature() -> AbstractContextManager[Any]:
    """Thresholds of the scores that the model would give without its temperature."""
    real = MultiLabel.confidences

    def wrong(self: MultiLabel, logits: np.ndarray, labels: np.ndarray, t: np.ndarray) -> Any:
        fitting = len(logits) == len(SPLITS["validation"][0])
        return real(self, logits, labels, np.ones_like(t) if fitting else t)

    return patch.object(MultiLabel, "confidences", wrong)


def assigned_where_not_reached() -> AbstractContextManager[Any]:
    """A label that does not reach a target is given from 0.5 on."""
    real = Target.threshold
    return patch.object(Target, "threshold", lambda self, curve: min(0.5, real(self, curve)))


MISTAKES = [
    one_for_all_labels, fitted_on_test, thresholds_of_logits, before_the_temperature,
    assigned_where_not_reached,
]  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught(mistake: Callable[[], AbstractContextManager[Any]]) -> None:
    with mistake():
        found = assess(TASK, SPLITS, True, "float32")
    with pytest.raises(AssertionError):
        check(found, calibrate=True)


def test_without_a_split_or_scores_it_is_a_line() -> None:
    nothing = {"calibration": None, "decisions": None, "thresholds": None}
    found = assess(TASK, {"test": SPLITS["test"]}, True, "float32")
    assert found.result == nothing and not found.curves and len(found.lines) == 1
    assert "no validation split; set data.validation_fraction" in found.lines[0]
    alone = assess(TASK, {"validation": SPLITS["validation"]}, False, "float32")
    assert alone.result["calibration"]["split"] == "validation" and len(alone.curves) == 4
    assert alone.result["thresholds"] is None and alone.result["decisions"] is None
    broken = SPLITS["validation"][0].copy()
    broken[5, 3] = np.nan
    found = assess(TASK, {"validation": (broken, SPLITS["validation"][1])}, True, "float32")
    assert (found.result, found.lines) == (
        nothing, ("calibration: none, as 1 of 803 rows have no score",),
    )  # fmt: skip
    number = {"validation": (np.ones((3, 1), np.float32), np.ones((3, 1)))}
    found = assess(Regression(("x",)), number, False, "float32")
    assert found.result == {"calibration": None, "decisions": None} and not found.curves
    assert "none for data.task = 'regression'" in found.lines[0] and len(found.lines) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with the curves of these scores."""
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    found = assess(TASK, SPLITS, False, "bf16")
    write_thresholds(tmp_path, found.about, found.curves)
    return tmp_path


def test_targets_choose_a_threshold_for_each_label(folder: Path) -> None:
    chosen = choose_thresholds(folder, Target())
    curves = assess(TASK, SPLITS, False, "bf16").curves
    assert chosen.thresholds.tolist() == [Target().threshold(one) for one in curves.values()]
    assert chosen.computed_in == "bf16"
    assert "thresholds for 3 of 4 labels (best F1): on the 803 validation rows" in chosen.lines[0]
    assert chosen.lines[1] == ("given from a score of 0.5 on, as no validation row has them: never")
    chosen = choose_thresholds(folder, Target(min_precision=0.8))
    never = [name for name, curve in curves.items() if curve.lowest(0.8) is None]
    assert np.isinf(chosen.thresholds).sum() == len(never) > 0
    assert (
        chosen.lines[1]
        == f"never given, as they do not reach --min-precision 0.8: {', '.join(never)}"
    )
    few = [x for x, c in curves.items() if (i := c.lowest(1.0)) is not None and c.answered[i] < 10]
    line = f"on fewer than 10 rows rest the thresholds of {', '.join(few)}"
    assert few and choose_thresholds(folder, Target(min_precision=1.0)).lines[-1] == line
    with pytest.raises(UserError) as caught:
        choose_thresholds(folder, Target(1.0, 0.9))
    (line,) = caught.value.lines
    assert line.startswith(
        "--min-precision 1 and --min-recall 0.9: not reached on the 803 validation rows; the best "
    )
    path = folder / "thresholds.json"
    good = json.loads(path.read_text())
    for curves in ([], {"often": 3}, {"often": {**good["curves"]["often"], "right": []}}, {}):
        path.write_text(json.dumps({**good, "curves": curves}))
        with pytest.raises(UserError, match=r"thresholds\.json: not a curve of thresholds"):
            choose_thresholds(folder, Target())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the finished runs `plain` and `calibrated`, and of one that learns nothing."""
    top = tmp_path_factory.mktemp("confidence")
    corpus = fixtures.task_corpus(top / "corpus", 60, 40, 29)
    base = [
        f"data.source={corpus}", f"model.name={systems.encoder(top / 'encoder', 'bert')}",
        f"run.dir={top / 'runs'}", "data.max_length=40", "train.batch_size=12", "train.epochs=2",
        "optim.lr=5e-3", *fixtures.TASKS["multi_label"],
    ]  # fmt: skip
    drive(
        [
            entry("plain", [*base, "log.tensorboard=false"]),
            entry("calibrated", [*base, "eval.calibrate=true"]),
            entry(
                "start", but(base, "train.max_steps=1", "optim.lr=1e-9", "log.tensorboard=false")
            ),
        ],
        World(),
        complete=True,
    )
    return top / "runs"


def test_a_run_folds_them_into_the_model_alone(runs: Path) -> None:
    plain, calibrated = (fixtures.result(runs / name) for name in ("plain", "calibrated"))
    assert plain["weights_sha256"] == calibrated["weights_sha256"]
    temperature = np.array(plain["calibration"]["temperature"])
    assert temperature.tolist() == calibrated["calibration"]["temperature"]
    assert len(temperature) == 4 and (temperature != 1).any()
    assert plain["eval"]["test"]["loss"] == calibrated["eval"]["test"]["loss"]
    one, hot = (Predictor(runs / name) for name in ("plain", "calibrated"))
    assert hot.logits(TEXTS) * temperature == pytest.approx(one.logits(TEXTS), abs=1e-5)
    answers = hot(TEXTS)
    assert [x["labels"] for x in answers] == [x["labels"] for x in one(TEXTS)]
    pipe = pipeline("text-classification", str(runs / "calibrated" / "model"), top_k=None)
    for theirs, ours in zip(pipe(TEXTS), answers, strict=True):
        found = {x["label"]: x["score"] for x in theirs}
        assert found == pytest.approx(ours["scores"], abs=1e-5)


@pytest.mark.parametrize("name", ["plain", "calibrated"])
def test_predict_gives_each_label_from_its_threshold_on(
    runs: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model = str(runs / name), runs / name / "model"
    result = fixtures.result(runs / name)

    def predicted(*words: str) -> tuple[list[dict[str, Any]], str]:
        assert predict.main([run, *TEXTS, *words]) == 0
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()], err

    plain, err = predicted()
    assert "threshold" not in err
    names = list(plain[0]["scores"])
    fitted = [one["threshold"] for one in result["thresholds"]["per_label"].values()]
    asked: dict[tuple[str, ...], Any] = {
        (): [0.5] * 4,
        ("--best-f1",): fitted,
        ("--threshold", "0.3"): [0.3] * 4,
        ("--threshold", "1"): [1.0] * 4,
        ("--min-precision", "0.9"): choose_thresholds(model, Target(0.9)).thresholds,
        ("--min-recall", "0.9"): choose_thresholds(model, Target(None, 0.9)).thresholds,
    }
    for words, least in asked.items():
        answers, err = predicted(*words)
        scores = np.array([[one["scores"][x] for x in names] for one in answers])
        assert [one["scores"] for one in answers] == [one["scores"] for one in plain]
        given = [[x for x, s, t in zip(names, row, least, strict=True) if s >= t] for row in scores]
        assert [one["labels"] for one in answers] == given
        line = f"{sum(not x for x in given)} of 20 texts have no label: none of their scores"
        assert (line in err) == bool(words)
    assert [one["labels"] for one in Predictor(run, thresholds=fitted)(TEXTS)] == [
        one["labels"] for one in predicted("--best-f1")[0]
    ]
    bare = shutil.copytree(model, tmp_path / "model")
    (bare / "thresholds.json").unlink()
    with pytest.raises(UserError, match=r"no thresholds\.json: .*; give --threshold instead"):
        predict.main([str(bare), "a", "--best-f1"])
    assert predict.main([str(bare), "a", "--threshold", "0.9"]) == 0
    with pytest.raises(UserError, match="thresholds: 3 for a model that takes 4"):
        Predictor(run, thresholds=[0.5] * 3)


def test_card_report_and_pages_have_them(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "calibrated"
    result = fixtures.result(run)
    thresholds, calibration = result["thresholds"], result["calibration"]
    card = (run / "model" / "README.md").read_text()
    part = card.split("## Confidence")[1].split("\n## ")[0]
    assert "the mean over the labels" in part and "They are in the weights" in part
    assert "![score and share with the label, before and after the temperature](rel" in part
    for (name, one), t in zip(
        thresholds["per_label"].items(), calibration["temperature"], strict=True
    ):
        cells = [name, f"{t:.4f}", *(f"{one[k]:.4f}" for k in ("threshold", "precision", "recall"))]
        assert cells in [[x.strip() for x in line.split("|")[1:6]] for line in part.splitlines()]
    assert report.main([str(run), str(runs / "plain"), "--pictures", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    for key in ("f1_macro", "f1_micro", "f1_samples"):
        assert f"{thresholds[key]:.4f}" in text and f"{result['eval']['test'][key]:.4f}" in text
    assert f"{calibration['ece_before']:.4f} [" in text and "labels that reach it" in text
    assert (tmp_path / "reliability-calibrated.png").stat().st_size > 5000
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0}).Reload()
    (one,) = events.Scalars("final/test/best_f1_thresholds/f1_macro")
    assert one.value == pytest.approx(thresholds["f1_macro"], rel=1e-6)
    (one,) = events.Scalars("final/test/temperature/rare")
    assert one.value == pytest.approx(calibration["temperature"][-1], rel=1e-6)
    assert "reliability/test" in events.Tags()["images"]
    log = (run / "train.log").read_text()
    assert f"f1_macro {thresholds['f1_macro']:.4f} on test" in log


def test_a_model_that_gives_no_label_yet_says_so(runs: Path) -> None:
    result = fixtures.result(runs / "start")
    given = np.array(result["eval"]["validation"]["confusion"])[:, :, 1].sum()
    line = "no text gets a label: all scores are below 0.5, so F1 is 0; mAP needs no threshold"
    assert (line in (runs / "start" / "train.log").read_text()) == (given == 0)
    silent = {"confusion": [[[5, 0], [2, 0]]] * 3}
    assert TASK.remark(silent) == line
    assert TASK.remark({"confusion": [[[5, 0], [2, 0]], [[4, 1], [1, 1]]]}) is None
