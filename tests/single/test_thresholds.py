"""The curve of thresholds against scikit-learn, and predict's choices from it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import precision_recall_curve

from distsent import predict
from distsent.errors import UserError
from distsent.evaluation import thresholds
from distsent.evaluation.chosen_thresholds import Chosen, choose_thresholds, write_thresholds
from distsent.evaluation.confidence import assess
from distsent.evaluation.intervals import wilson_interval
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.evaluation.thresholds import Curve, Target, measure
from tests import fixtures

TEXTS = [row["text"] for row in fixtures.rows(20, seed=9)]


def scored(n: int, seed: int = 0, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Scores and whether they are right; `levels`: the number of different scores."""
    rng = np.random.default_rng(seed)
    scores = rng.random(n) if levels is None else rng.integers(1, levels + 1, n) / (levels + 1)
    return scores.astype(np.float32), rng.random(n) < scores


@pytest.mark.parametrize(("n", "levels"), [(1, None), (7, None), (200, None), (200, 9), (60, 1)])
def test_the_curve_is_scikit_learns(n: int, levels: int | None) -> None:
    scores, right = scored(n, seed=n, levels=levels)
    right[0] = True
    curve = Curve.of(scores, right)
    precision, recall, at = precision_recall_curve(right, scores)
    assert len(curve.threshold) == len(at) == len(np.unique(scores))
    assert curve.precision == pytest.approx(precision[:-1], abs=1e-12)
    assert curve.recall == pytest.approx(recall[:-1] * right.mean(), abs=1e-12)
    for i, threshold in enumerate(curve.threshold):  # each between its score and the next
        assert ((scores >= threshold) == (scores >= at[i])).all()
    assert curve.threshold[0] == 0 and curve.coverage[0] == 1


def test_a_million_rows_make_a_small_curve_that_holds_for_all_of_them() -> None:
    scores, right = scored(1_000_000)
    curve = Curve.of(scores, right)
    assert len(curve.threshold) <= thresholds.EVEN + thresholds.DENSE
    content = json.dumps(curve.to_dict())
    assert len(content) < 60_000
    again = Curve.from_dict(json.loads(content))
    for i in range(0, len(curve.threshold), 20):
        answered = scores >= again.threshold[i]
        assert (answered.sum(), right[answered].sum()) == (again.answered[i], again.right[i])
    # At most a 256th of the rows is lost against the curve of all rows
    precision, _, at = precision_recall_curve(right, scores)
    best = (scores >= at[np.flatnonzero(precision[:-1] >= 0.9)[0]]).mean()
    assert best - 1 / 250 < curve.coverage[curve.lowest(0.9)] <= best


def folder_with(tmp_path: Path, curve: Curve, computed_in: str = "float32") -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    about = {"split": "validation", "computed_in": computed_in}
    write_thresholds(tmp_path, about, {"": curve})
    return tmp_path


def choose_threshold(folder: Path, precision: float | None, recall: float | None) -> Chosen:
    return choose_thresholds(folder, Target(precision, recall))


def test_targets_choose_a_threshold_or_say_what_is_best(tmp_path: Path) -> None:
    #                 .9 .8 .7 .6 .5 .4
    right = np.array([1, 1, 0, 1, 0, 0], bool)
    curve = Curve.of(np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32), right)
    folder = folder_with(tmp_path, curve)
    chosen = {
        (1.0, None): 0.75, (0.75, None): 0.55, (0.7, None): 0.55, (0.5, None): 0.0, (0, None): 0.0,
        (None, 0.3): 0.75, (None, 0.5): 0.55, (None, 0.0): 0.85, (0.6, 0.5): 0.45, (0.9, 0.3): 0.75,
    }  # fmt: skip
    for (precision, recall), expected in chosen.items():
        found = choose_threshold(folder, precision, recall)
        assert found.thresholds == pytest.approx([expected], abs=1e-6), (precision, recall)
    low, high = wilson_interval(3, 4)
    (line,) = choose_threshold(folder, 0.7, None).lines
    assert line == (
        f"threshold 0.55: on the 6 validation rows precision 0.7500 [{low:.4f}, {high:.4f}], "
        "recall 0.5000, coverage 0.6667"
    )
    refused = {
        (None, 0.6): "--min-recall 0.6: not reached on the 6 validation rows; the best is",
        (0.8, 0.5): "--min-precision 0.8 and --min-recall 0.5: not reached on the 6 validation",
    }
    for (precision, recall), line in refused.items():
        with pytest.raises(UserError, match=line):
            choose_threshold(folder, precision, recall)
    bad = Curve.of(np.array([0.9, 0.8], np.float32), np.array([False, True]))
    with pytest.raises(UserError, match=r"0.9: not reached .*; the best is precision 0.5000 \["):
        choose_threshold(folder_with(tmp_path, bad), 0.9, None)


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, Curve.of(*scored(9)))
    path = folder / "thresholds.json"
    good = json.loads(path.read_text())
    cases = {
        "not a curve of thresholds": [
            "{", "[]", "null", "{}", json.dumps({**good, "curve": {"rows": 3}}),
            json.dumps({**good, "curve": {**good["curve"], "right": [1]}}),
            json.dumps({**good, "curve": {**good["curve"], "right": [99] * 9}}),
        ],
        "measured with other weights": [json.dumps({**good, "weights": "0"})],
    }  # fmt: skip
    for line, contents in cases.items():
        for content in contents:
            path.write_text(content)
            with pytest.raises(UserError, match=rf"thresholds.json: {line}") as caught:
                choose_threshold(folder, 0.9, None)
            assert len(caught.value.lines) == 1 and "give --threshold instead" in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r"no thresholds\.json: its run had no validation split"):
        choose_threshold(folder, 0.9, None)


def test_decisions_are_measured_on_test() -> None:
    rng = np.random.default_rng(0)
    splits = {}
    for name, n in (("validation", 500), ("test", 400)):
        logits = rng.normal(size=(n, 3)).astype(np.float32) * 2
        chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        splits[name] = (logits, np.array([rng.choice(3, p=p) for p in chances]))
    for calibrate in (False, True):
        task = SingleLabel(("a", "b", "c"))
        found = assess(task, splits, calibrate, "float32")
        (scores,), (right,) = (
            x.T for x in task.confidences(*splits["validation"], found.temperature)
        )
        curve = Curve.of(scores, right)
        (scores,), (right,) = (x.T for x in task.confidences(*splits["test"], found.temperature))
        assert found.result["decisions"]["n"] == 400
        for one in found.result["decisions"]["targets"]:
            point = curve.lowest(one["min_precision"])
            if point is None:
                assert one["threshold"] is None
                assert one["best_precision"] == curve.precision.max() < one["min_precision"]
                continue
            assert one["threshold"] == curve.threshold[point]
            answered = scores >= one["threshold"]
            assert one["coverage"] == answered.mean()
            assert one["precision"] == pytest.approx(right[answered].mean(), abs=1e-12)
            low, high = one["precision_interval"]
            assert low <= one["precision"] <= high + 1e-12
    assert measure(scores, right, 1.1)["precision"] is None


def test_predict_abstains_below_the_threshold(finished: Path, tmp_path: Path, capsys) -> None:
    run = str(finished / "lora")

    def predicted(*words: str) -> tuple[list[dict], str]:
        assert predict.main([run, *TEXTS, *words]) == 0
        out, err = capsys.readouterr()
        return [json.loads(line) for line in out.splitlines()], err

    plain, _ = predicted()
    middle = sorted(one["score"] for one in plain)[10]
    for words in (["--threshold", str(middle)], ["--min-recall", "0.1"], ["--min-precision", "0"]):
        answers, err = predicted(*words)
        least = middle
        if "--threshold" not in words:
            asked = {words[0]: float(words[1])}
            chosen = choose_threshold(
                Path(run) / "model", asked.get("--min-precision"), asked.get("--min-recall")
            )
            (least,) = chosen.thresholds
            assert f"distsent: {chosen.lines[0]}\n" in err
        below = [one["score"] < least for one in plain]
        assert [one["label"] is None for one in answers] == below
        assert [
            {**one, "label": two["label"]} for one, two in zip(plain, answers, strict=True)
        ] == (answers)
        assert f"{sum(below)} of 20 texts score below {least:.6g}: their label is null\n" in err
    model = shutil.copytree(finished / "lora" / "model", tmp_path / "model")
    (model / "thresholds.json").unlink()
    cases = {
        ("--min-precision", "1.5"): "'1.5': expected a number from 0 to 1, e.g. 0.95",
        ("--threshold", "nan"): "'nan': expected a number from 0 to 1",
        ("--threshold", "0.5", "--min-recall", "0"): "--threshold: stands in place of --min-recall",
        ("--best-f1", "--min-recall", "0"): "--best-f1: stands in place of --min-recall",
        ("--best-f1",): "--best-f1: is for several labels per text; this model's task is 'single_",
        ("--min-precision", "1", "--min-recall", "1"): "--min-precision 1 and --min-recall 1: not",
    }
    for words, line in cases.items():
        with pytest.raises(UserError, match=line):
            predict.main([run, "a", *words])
    with pytest.raises(UserError, match=r"no thresholds\.json"):
        predict.main([str(model), "a", "--min-precision", "0.9"])
    assert predict.main([str(model), "a", "--threshold", "0.9"]) == 0
