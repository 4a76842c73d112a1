"""evaluate: a run's own scores again, and scores on other data."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from transformers import BertConfig, BertForSequenceClassification

from distsent import evaluate, train
from distsent.errors import UserError
from distsent.evaluation import offline
from distsent.evaluation.predictor import Predictor
from tests import dataset_files, fixtures, launcher, tiny_models


def scores(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    assert evaluate.main([str(word) for word in words]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


@pytest.mark.parametrize("run", ["plain", "lora"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_runs_own_scores_are_reproduced(finished: Path, run: str, split: str, capsys) -> None:
    found = scores(capsys, finished / run, "--split", split)
    expected = fixtures.result(finished / run)["eval"][split]
    assert (
        found["confusion"] == expected["confusion"] and found["per_class"] == expected["per_class"]
    )
    assert {
        key: found[key] for key in ("n", "accuracy", "f1", "f1_macro", "precision", "recall")
    } == {key: expected[key] for key in ("n", "accuracy", "f1", "f1_macro", "precision", "recall")}
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert (found["split"], found["world_size"], found["computed_in"]) == (split, 1, "float32")
    low, high = found["intervals"]["accuracy"]
    assert low < found["accuracy"] < high


@pytest.mark.parametrize(
    ("asked", "meant"),
    [("auto", "bf16"), ("auto", "float32"), ("fp16", "bf16"), ("fp16", "float32")],
)
def test_the_precision_is_the_one_of_the_training_run(
    finished: Path,
    asked: str,
    meant: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished / "plain", run)
    kept = json.loads((run / "job.json").read_text())
    kept["job"]["train"]["precision"], kept["precision"] = asked, meant
    (run / "job.json").write_text(json.dumps(kept))
    assert (
        scores(capsys, run, f"data.source={kept['job']['data']['source']}")["computed_in"] == meant
    )


def test_the_model_folder_finds_its_run(finished: Path, capsys) -> None:
    assert (
        scores(capsys, finished / "plain" / "model")["confusion"]
        == scores(capsys, finished / "plain")["confusion"]
    )


@pytest.mark.parametrize("name", ["own.csv", "own.jsonl", "own.parquet"])
def test_other_data_needs_no_training_split(
    finished: Path, name: str, tmp_path: Path, capsys
) -> None:
    rows = fixtures.rows(31, seed=77)
    path = dataset_files.write(
        tmp_path / name,
        {"review": [row["text"] for row in rows], "stars": [row["label"] for row in rows]},
    )
    found = scores(
        capsys,
        finished / "plain",
        f"data.source={path}",
        "data.text_column=review",
        "data.label_column=stars",
    )
    labels = [fixtures.LABELS.index(row["label"]) for row in rows]
    logits = Predictor(finished / "plain").logits([row["text"] for row in rows])
    assert found["n"] == 31
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert found["f1"] == pytest.approx(
        f1_score(labels, logits.argmax(1), average="weighted", zero_division=0)
    )


def test_a_folder_with_only_a_test_split(finished: Path, tmp_path: Path, capsys) -> None:
    folder = fixtures.corpus(tmp_path / "own", train=0, validation=0, test=17)
    assert scores(capsys, finished / "plain", f"data.source={folder}")["n"] == 17
    with pytest.raises(UserError) as caught:
        evaluate.main([str(finished / "plain"), f"data.source={folder}", "--split", "validation"])
    assert caught.value.lines == (
        f"data.source = {str(folder)!r} has no validation split; it has test: use --split test",
    )


def test_numbers_and_some_of_the_classes_are_read_as_the_models_classes(
    finished: Path, tmp_path: Path, capsys
) -> None:
    texts = [row["text"] for row in fixtures.rows(6, seed=5)]
    numbers = dataset_files.write(
        tmp_path / "numbers.csv", {"text": texts, "label": [2, 0, 2, 0, 2, 0]}
    )
    words = dataset_files.write(
        tmp_path / "words.csv", {"text": texts, "label": ["good", "bad"] * 3}
    )
    found = [scores(capsys, finished / "plain", f"data.source={path}") for path in (numbers, words)]
    assert found[0]["confusion"] == found[1]["confusion"] and sum(found[0]["confusion"][1]) == 0


def test_a_model_without_a_job_needs_a_data_source(
    finished: Path, tmp_path: Path, capsys, monkeypatch
) -> None:
    model = shutil.copytree(finished / "plain" / "model", tmp_path / "shipped")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        evaluate.main([str(model)])
    assert caught.value.lines == (
        f"{model}: a model without a job; set data.source, e.g. to ./test.csv",
    )
    found = scores(capsys, model, f"data.source={finished.parent / 'corpus'}")
    assert found["confusion"] == fixtures.result(finished / "plain")["eval"]["test"]["confusion"]


def test_a_moved_run_still_finds_its_dataset(finished: Path, tmp_path: Path, capsys) -> None:
    moved = shutil.copytree(finished / "plain", tmp_path / "elsewhere" / "plain")
    assert (
        scores(capsys, moved)["confusion"]
        == fixtures.result(finished / "plain")["eval"]["test"]["confusion"]
    )


def test_a_bare_model_reads_as_many_tokens_as_it_was_made_for(tmp_path: Path, capsys) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    names = {"id2label": dict(enumerate(fixtures.LABELS)), "vocab_size": tiny_models.VOCABULARY}
    model = fixtures.model(tmp_path / "model")  # its tokenizer; positions for 700 tokens
    torch.manual_seed(0)
    config = BertConfig(**sizes, **names, max_position_embeddings=700, initializer_range=1.0)
    BertForSequenceClassification(config).save_pretrained(model)
    rows = fixtures.rows(6, longest=600, seed=5)
    file = fixtures.jsonl(tmp_path / "test.jsonl", rows)
    settings, losses = model / "tokenizer_config.json", {}
    for length in (1000, 100):
        settings.write_text(
            json.dumps(json.loads(settings.read_text()) | {"model_max_length": length})
        )
        predictor = Predictor(model)
        answers = predictor([str(row["text"]) for row in rows])
        true = [answer["scores"][row["label"]] for answer, row in zip(answers, rows, strict=True)]
        losses[length] = -np.log(true).mean()
        assert evaluate.main([str(model), f"data.source={file}"]) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["loss"] == pytest.approx(losses[length], rel=1e-5)
        cut = "distsent: test: 6 of 6 texts (100.0%) have more than 100 tokens and are truncated\n"
        read = "distsent: read test.jsonl as json, 6 rows\n"
        expected = (read + cut, 6) if length == 100 else (read, 0)
        assert (err, predictor.long) == expected
    assert losses[100] != pytest.approx(losses[1000], rel=1e-3)


@pytest.mark.parametrize(("words", "line"), [
    (["data.max_lenght=3"], "command line: data.max_lenght"),
    (["data.source=./nowhere"], "no such file or folder"),
    (["x"], "'x': expected section.key=value, e.g. data.source=./test.csv"),
    (["data.max_length=9999"], "data.max_length = 9999: this model takes at most 258 tokens"),
])  # fmt: skip
def test_errors_are_one_line_each(finished: Path, words: list[str], line: str) -> None:
    assert any(
        line in found
        for found in dataset_files.mistakes(
            lambda: evaluate.main([str(finished / "plain"), *words])
        )
    )


def test_labels_unknown_to_the_model_are_one_line(finished: Path, tmp_path: Path) -> None:
    path = dataset_files.write(
        tmp_path / "own.csv", {"text": ["w1 w2", "w3"], "label": ["good", "superb"]}
    )
    (line,) = dataset_files.mistakes(
        lambda: evaluate.main([str(finished / "plain"), f"data.source={path}"])
    )
    assert "a label outside the classes bad, fair, good: row 2 ('superb')" in line


def test_values_mean_what_they_meant_in_training(tmp_path: Path, capsys) -> None:
    """Trained on 1, 2, 3; a file with the same values, some of them, or the names; not 0, 1, 2."""
    texts = [row["text"] for row in fixtures.rows(30)]

    def table(name: str, labels: list[object]) -> Path:
        return dataset_files.write(tmp_path / name, {"text": texts[: len(labels)], "label": labels})

    run = tmp_path / "run"
    words = [
        f"data.source={table('train.csv', [1, 2, 3] * 10)}", f"run.dir={tmp_path}", "job.name=run",
        f"model.name={fixtures.model(tmp_path / 'encoder')}", "data.labels=[bad,fair,good]",
        "data.test_fraction=0.2", "data.max_length=40", "train.max_steps=1", "train.batch_size=8",
        "log.tensorboard=false",
    ]  # fmt: skip
    assert train.main(words) == 0
    log = (run / "train.log").read_text(encoding="utf-8")
    for line in ("class  train  test", "fair       8     2", "1 = bad, 2 = fair, 3 = good"):
        assert line in log
    assert json.loads((run / "job.json").read_text())["label_values"] == {
        "1": "bad", "2": "fair", "3": "good"
    }  # fmt: skip
    capsys.readouterr()
    files = {
        "numbers.csv": [3, 1] * 6, "floats.parquet": [3.0, 1.0] * 6,
        "words.csv": ["good", "bad"] * 6,
    }  # fmt: skip
    found = [scores(capsys, run, f"data.source={table(*item)}") for item in files.items()]
    assert found[0]["confusion"] == found[1]["confusion"] == found[2]["confusion"]
    assert [sum(row) for row in found[0]["confusion"]] == [6, 0, 6]
    for labels in ([0, 1, 2], [0], ["1", "Good"]):
        path = table("other.csv", labels * 2)
        (line,) = dataset_files.mistakes(
            lambda p=path: evaluate.main([str(run), f"data.source={p}"])
        )
        assert line.startswith("other.csv: column 'label'")


STUCK = """
import os, time
from distsent import cli, evaluate
from distsent.evaluation import evaluate_split

real = evaluate_split.collate
def collate(*arguments):
    time.sleep(100 if os.environ["RANK"] == "1" else 0)
    return real(*arguments)

evaluate_split.collate = collate
cli.run(evaluate.main)
"""


def test_a_worker_that_hangs_is_named(finished: Path, tmp_path: Path) -> None:
    program = tmp_path / "stuck.py"
    program.write_text(STUCK)
    words = str(program), str(finished / "plain"), "run.stall_seconds=3"
    ended = launcher.run(*words, np=2, transport="torch", timeout=90)
    assert ended.code == 1, ended.output
    line = r"rank 0: no progress for \d+ s: rank 1 on \S+ has not entered the collective"
    assert re.search(line, ended.output), ended.output
    assert "no scores: run the same command again" in ended.output


def test_rows_without_finite_logits_have_no_scores(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = offline.evaluate_split

    def overflowing(*arguments: object, **options: object) -> tuple[dict, torch.Tensor]:
        scores, logits = real(*arguments, **options)
        logits[3, 1] = torch.inf
        return scores, logits

    monkeypatch.setattr(offline, "evaluate_split", overflowing)
    lost = "the logits of 1 of 40 rows are not finite in float32: they have no scores"
    lines = dataset_files.mistakes(lambda: evaluate.main([str(finished / "plain")]))
    assert lines == [f"{finished / 'plain' / 'model'}: {lost}"]


def test_another_dataset_need_not_have_the_split_column_of_the_training(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished / "plain", tmp_path / "run")
    record = json.loads((run / "job.json").read_text())
    record["job"]["data"]["split_column"] = "part"
    (run / "job.json").write_text(json.dumps(record))
    rows = fixtures.rows(30, seed=8)
    plain = fixtures.jsonl(tmp_path / "plain.jsonl", rows)
    parts = [{**row, "part": "train" if i % 3 else "test"} for i, row in enumerate(rows)]
    mixed = fixtures.jsonl(tmp_path / "mixed.jsonl", parts)
    kept = [row for row in parts if row["part"] == "train"]
    train = fixtures.jsonl(tmp_path / "train.jsonl", kept)
    assert scores(capsys, run, f"data.source={plain}")["n"] == 30
    # Where it does, it says which rows the model may not have seen
    assert evaluate.main([str(run), f"data.source={mixed}"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["n"] == 10
    assert 'data.split_column = "part": only rows of the test split are scored' in err
    assert scores(capsys, run, f"data.source={mixed}", "data.split_column=none")["n"] == 30
    (line,) = dataset_files.mistakes(lambda: evaluate.main([str(run), f"data.source={train}"]))
    assert line.endswith("has no test split; it has train: use --split train")


def test_some_rows_of_another_dataset(finished: Path, capsys) -> None:
    test = finished.parent / "corpus" / "test.jsonl"
    found = scores(capsys, finished / "plain", f"data.source={test}", "data.max_eval_rows=7")
    assert found["n"] == sum(map(sum, found["confusion"])) == 7


def test_the_order_of_classes_without_names_is_shown(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(finished / "plain" / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["id2label"] = {i: f"LABEL_{i}" for i in range(3)}
    config["label2id"] = {f"LABEL_{i}": i for i in range(3)}
    (model / "config.json").write_text(json.dumps(config))
    texts = [row["text"] for row in fixtures.rows(6)]
    notes = {}
    for names in (["poor", "fine", "great"], [0, 1, 2]):
        path = dataset_files.write(tmp_path / "x.csv", {"text": texts, "label": names * 2})
        for key in ((), ("data.labels=[poor,fine,great]",)):
            assert evaluate.main([str(model), f"data.source={path}", *key]) == 0
            notes[names[0], bool(key)] = capsys.readouterr().err
    line = "distsent: LABEL_0 = fine, LABEL_1 = great, LABEL_2 = poor: the model does not name"
    assert {key for key, err in notes.items() if "LABEL_0" in err} == {("poor", False)}
    assert line in notes["poor", False]


def test_a_model_alone_names_the_classes_of_any_dataset(finished: Path, tmp_path: Path) -> None:
    """Also of one that is split as for training."""
    model = shutil.copytree(finished / "plain" / "model", tmp_path / "model")
    for words in ([], ["data.test_fraction=0.2"]):
        source = f"data.source={finished.parent / 'corpus' / 'train.jsonl'}"
        request = offline.resolve_request(str(model), [source, *words], "test")
        naming = offline.model_naming(request, ["good", "fair", "bad"])
        assert naming is not None and naming.names == ("good", "fair", "bad")
    own = offline.resolve_request(str(finished / "plain"), [], "test")
    assert offline.model_naming(own, fixtures.LABELS) is None
