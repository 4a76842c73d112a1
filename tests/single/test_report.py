"""Runs side by side: tables, seeds, significance, pictures, and folders without a finished run."""

import csv
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from distsent import report
from distsent.errors import UserError
from distsent.evaluation import intervals
from distsent.evaluation.tasks.single_label import score_intervals
from distsent.reporting import pairwise, plots, push
from distsent.reporting.finished_run import read_run
from distsent.reporting.table import format_result_table, next_commands
from distsent.reporting.tasks.paired import mcnemar
from distsent.reporting.tasks.single_label import compare_predictions
from distsent.runtime.run_status import RunStatus
from tests import fixtures


def reported(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert report.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def test_markdown_has_a_line_per_run_and_one_for_the_seeds(finished: Path, capsys) -> None:
    names = ["plain", "lora", "seeds-seed1", "seeds-seed2"]
    text = reported(capsys, *(finished / name for name in names))
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.partition("\nCalibration: ")[0].splitlines()
        if line.startswith("|")
    ]
    head, _, *rows = lines[:7]
    assert head[:8] == [
        "run",
        "model",
        "accuracy",
        "F1",
        "F1 macro",
        "loss",
        "test examples/s",
        "training examples/s",
    ]
    assert [row[0] for row in rows] == [*names, "seeds (2 seeds)"]
    assert rows[1][1] == "encoder + lora"
    for row, name in zip(rows, names, strict=False):
        scores = fixtures.result(finished / name)["eval"]["test"]
        assert row[2:6] == [f"{scores[key]:.4f}" for key in ("accuracy", "f1", "f1_macro", "loss")]
    values = [fixtures.result(finished / name)["eval"]["test"]["loss"] for name in names[2:]]
    assert rows[4][5] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert [line[:2] for line in lines[9:]] == [
        [name, "plain"] for name in names[1:]
    ]  # against the first


def test_one_run_shows_its_scores_on_all_splits(finished: Path, capsys) -> None:
    text = reported(capsys, finished / "plain")
    assert text.startswith(format_result_table(fixtures.result(finished / "plain")) + "\n\n")
    assert "Scores on the test split.\n\n| run " in text


def test_the_next_commands_name_the_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished)
    head, *lines = next_commands(Path("plain")).splitlines()
    commands = [line.split(maxsplit=1)[1].strip() for line in lines]
    assert head == "next:" and commands[-1].endswith("plain/model/README.md")
    for program in ("predict", "report", "evaluate", "audit", "export"):
        assert any(f"python -m distsent.{program} plain" in line for line in commands)
    assert any("tensorboard --logdir plain" in line for line in commands)
    assert "tensorboard" not in next_commands(Path("lora"))  # its job turns TensorBoard off
    assert "'a b/plain'" in next_commands(Path("a b/plain"))


def test_csv_and_json_hold_the_plain_numbers(finished: Path, capsys) -> None:
    runs = [finished / "seeds-seed1", finished / "seeds-seed2"]
    rows = list(
        csv.DictReader(
            io.StringIO(reported(capsys, *runs, "--format", "csv", "--split", "validation"))
        )
    )
    assert [row["kind"] for row in rows] == ["run", "run", "mean", "spread"]
    expected = [fixtures.result(run)["eval"]["validation"]["accuracy"] for run in runs]
    assert [float(row["accuracy"]) for row in rows] == [
        *expected,
        np.mean(expected),
        pytest.approx(np.std(expected, ddof=1)),
    ]
    value = json.loads(reported(capsys, *runs, "--format", "json"))
    assert (
        value["split"] == "test"
        and len(value["runs"]) == 2
        and value["seeds"][0]["seeds"] == [1, 2]
    )
    assert value["pairs"][0]["n"] == 40 and set(value["pairs"][0]) >= {
        "mcnemar",
        "f1_p",
        "only_a",
        "only_b",
    }


def test_calibration_and_decisions_have_a_line_per_run_and_target(finished: Path, capsys) -> None:
    text = reported(capsys, finished / "plain", finished / "lora")
    runs, tables = ("plain", "lora"), text.partition("Calibration: temperatures")[2].split("\n\n")
    calibrations, decisions = (
        [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
        for table in (tables[1], tables[3])
    )
    for run, line in zip(runs, calibrations, strict=True):
        found = fixtures.result(finished / run)["calibration"]
        assert line[:4] == [run, "test", f"{found['temperature']:.4f}", "no"]
        assert line[4].startswith(f"{found['ece_before']:.4f} [")
    assert [line[:2] for line in decisions] == [
        [run, target] for run in runs for target in ("0.8", "0.9", "0.95", "0.99")
    ]
    values = json.loads(reported(capsys, finished / "plain", "--format", "json"))["confidence"]
    assert values[0]["calibration"]["temperature"] == pytest.approx(float(calibrations[0][2]), 1e-3)


def test_pictures(finished: Path, tmp_path: Path, capsys) -> None:
    runs = ("plain", "lora")
    reported(capsys, *(finished / run for run in runs), "--pictures", tmp_path / "new" / "folder")
    found = {path.name: path.read_bytes() for path in (tmp_path / "new" / "folder").iterdir()}
    per_run = {f"{kind}-{run}.png" for kind in ("confusion", "reliability") for run in runs}
    assert set(found) == {"curves.png", *per_run}
    assert all(content.startswith(b"\x89PNG") and len(content) > 5000 for content in found.values())


def test_without_matplotlib_pictures_are_one_line(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "available", lambda: False)
    with pytest.raises(
        UserError, match=r"--pictures: pictures need matplotlib; pip install 'distsent\[plots\]'"
    ):
        report.main([str(finished / "plain"), "--pictures", "x"])


def test_each_folder_without_a_finished_run_is_one_line(finished: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(finished / "plain", tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    (unfinished / "status.json").write_text(RunStatus.started("step 3 of 16").to_json())
    with pytest.raises(UserError) as caught:
        report.main([str(finished / "plain"), str(unfinished), str(tmp_path / "none")])
    assert caught.value.lines == (
        f"{unfinished}: not finished (running: step 3 of 16); run its training command again to "
        "resume",
        f"{tmp_path / 'none'}: not a run folder (it has no job.json); give <run.dir>/<job.name>",
    )


def test_runs_of_the_same_name_are_shown_by_their_folders(
    finished: Path, tmp_path: Path, capsys
) -> None:
    other = shutil.copytree(finished / "plain", tmp_path / "plain")
    text = reported(capsys, finished / "plain", other, finished / "plain")
    assert (
        text.count(f"| {other} ") == 2 + 1 + 4 and "+0.0000" in text
    )  # in all tables; given twice, listed once


def test_runs_on_other_rows_are_compared_but_not_tested(finished: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    other = shutil.copytree(finished / "plain", tmp_path / "other")
    path = other / "predictions" / "test.safetensors"
    save_file({name: value[1:].copy() for name, value in load_file(path).items()}, path)
    pair = pairwise.compare_runs(read_run(finished / "plain"), read_run(other), "test")
    assert pair == {
        "run": "plain",
        "against": "plain",
        "untested": "their test splits hold different rows",
    }
    shutil.copy(finished / "plain" / "predictions" / "test.safetensors", path)
    changed = read_run(other)
    changed.result["texts"]["test"] = "of other texts"
    assert (
        pairwise.compare_runs(read_run(finished / "plain"), changed, "test")["untested"]
        == "their test splits hold different texts"
    )
    del changed.result["texts"]  # like a run of an older version
    assert "untested" not in pairwise.compare_runs(read_run(finished / "plain"), changed, "test")
    path.unlink()
    assert (
        pairwise.compare_runs(read_run(finished / "plain"), read_run(other), "test")["untested"]
        == "plain has no predictions of its test split"
    )


def test_mcnemar_is_scipys_exact_binomial_test() -> None:
    for a, b in ((0, 0), (3, 9), (10, 10), (0, 12), (40, 70), (900, 1000)):
        expected = stats.binomtest(a, a + b).pvalue if a + b else 1.0
        assert mcnemar(a, b) == pytest.approx(expected, rel=1e-6)


def test_a_better_model_is_distinguished_from_chance() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 400)

    def noisy(share: float) -> np.ndarray:
        return np.where(rng.random(400) < share, labels, rng.integers(0, 3, 400))

    weak, strong, twin = noisy(0.5), noisy(0.8), noisy(0.5)
    pair = compare_predictions(labels, weak, strong, 3)
    assert pair.mcnemar < 0.001 and pair.f1_p < 0.01 and pair.f1_interval[0] > 0
    expected = f1_score(labels, strong, average="weighted") - f1_score(
        labels, weak, average="weighted"
    )
    assert pair.f1 == pytest.approx(expected)
    assert pair.accuracy == pytest.approx((strong == labels).mean() - (weak == labels).mean())
    equal = compare_predictions(labels, weak, twin, 3)
    assert equal.mcnemar > 0.05 and equal.f1_interval[0] < 0 < equal.f1_interval[1]
    assert compare_predictions(labels, weak, weak, 3).f1_p == 1.0


def test_intervals_are_wilsons_and_the_bootstraps() -> None:
    for right, n in ((0, 10), (10, 10), (37, 40), (1876, 2000)):
        expected = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert intervals.wilson_interval(right, n) == pytest.approx((expected.low, expected.high))
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 300)
    predicted = np.where(rng.random(300) < 0.8, labels, 1 - labels)
    matrix = [[int(((labels == i) & (predicted == j)).sum()) for j in (0, 1)] for i in (0, 1)]
    draws = [rng.integers(0, 300, 300) for _ in range(2000)]
    expected = np.quantile(
        [f1_score(labels[rows], predicted[rows]) for rows in draws], [0.025, 0.975]
    )
    found = score_intervals(matrix)
    assert found["f1"] == pytest.approx(tuple(expected), abs=0.01)
    # The rows of a larger matrix that are not empty are drawn alike, wherever they are.
    wide = np.zeros((1000, 1000), dtype=np.int64)
    wide[np.ix_((0, 999), (0, 999))] = matrix
    assert score_intervals(wide)["f1_macro"] == found["f1_macro"]


class Api:
    """A hub that takes everything."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.calls = error, []

    def create_repo(self, name: str, **options: object) -> str:
        if self.error:
            raise self.error
        self.calls.append(("create", name, options))
        return f"https://hub/{name}"

    def upload_folder(self, **options: object) -> None:
        self.calls.append(("upload", options["repo_id"], str(options["folder_path"])))


def test_push_uploads_the_model_folder(finished: Path) -> None:
    api = Api()
    assert (
        push.push_to_hub(read_run(finished / "plain"), "me/plain", private=True, api=api)
        == "https://hub/me/plain"
    )
    assert api.calls == [
        ("create", "me/plain", {"private": True, "exist_ok": True}),
        ("upload", "me/plain", str(finished / "plain" / "model")),
    ]


def test_push_fails_in_one_line(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError

    with pytest.raises(UserError, match=r"^--push plain: expected ORG/NAME, e.g. my-name/plain$"):
        report.main([str(finished / "plain"), "--push", "plain"])
    unreachable = "cannot be reached [(]no route[)]"
    for error, line in (
        (LocalTokenNotFoundError("x"), "not logged in"),
        (OSError("no route"), unreachable),
        (HTTPError("no route"), unreachable),
    ):
        with pytest.raises(UserError, match=line):
            push.push_to_hub(read_run(finished / "plain"), "me/plain", api=Api(error))
    with pytest.raises(UserError, match=r"one run becomes one repository; 2 are given"):
        report.main([str(finished / "plain"), str(finished / "lora"), "--push", "a/b"])


def test_the_worst_mistakes_come_first_with_their_texts(finished: Path) -> None:
    run = read_run(finished / "plain")
    kept, mistakes = run.predictions("test"), run.mistakes("test")
    assert len(mistakes) == (kept.classes != kept.labels).sum() > 0
    assert [one["score"] for one in mistakes] == sorted(
        (one["score"] for one in mistakes), reverse=True
    )
    rows = fixtures.rows(40, seed=2)
    for one in mistakes:
        assert one["file"] == "test.jsonl"
        assert (
            rows[one["row"] - 1] == {"text": one["text"], "label": one["label"]}
            and one["predicted"] != one["label"]
        )


def test_a_mistake_is_one_whatever_ends_lines_in_its_text(finished: Path, tmp_path: Path) -> None:
    texts = ["wait\x85 what", "one\u2028two", "one\u2029two", "one\ntwo\r\nthree\x0bfour"]
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    run = shutil.copytree(finished / "plain", tmp_path / "plain")
    file = run / "predictions" / "test.mistakes.jsonl"
    file.write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
    assert [one["text"] for one in read_run(run).mistakes("test")] == texts
