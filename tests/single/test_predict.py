"""predict: labels for texts from arguments, files, standard input and Python, in order."""

import io
import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from distsent import predict
from distsent.batching.packing import PackedBatch
from distsent.errors import STOPPED, UserError
from distsent.evaluation.predictor import Predictor
from distsent.evaluation.tasks.single_label import SingleLabel
from distsent.model.half_precision import usable_precision
from distsent.reporting.table import next_commands
from distsent.runtime.run_status import RunStatus
from tests import dataset_files, fixtures, launcher, systems

TEXTS = [row["text"] for row in fixtures.rows(50, seed=9)]


def predicted(capsys: pytest.CaptureFixture[str], *words: object) -> list[dict]:
    assert predict.main([str(word) for word in words]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("run", ["plain", "lora"])
def test_labels_and_scores_are_the_pipelines(finished: Path, run: str) -> None:
    predictor = Predictor(finished / run)
    answers = predictor(TEXTS)
    theirs = pipeline(
        "text-classification", str(finished / run / "model"), device="cpu", top_k=None
    )(TEXTS)
    for ours, other in zip(answers, theirs, strict=True):
        assert list(ours["scores"]) == ["bad", "fair", "good"]
        assert ours["scores"] == pytest.approx(
            {one["label"]: one["score"] for one in other}, abs=1e-6
        )
        assert ours["label"] == max(ours["scores"], key=ours["scores"].get) and ours[
            "score"
        ] == max(ours["scores"].values())


def test_predictions_are_those_that_the_run_itself_made(finished: Path) -> None:
    from distsent.reporting.finished_run import read_run

    kept = read_run(finished / "plain").predictions("test")
    logits = Predictor(finished / "plain").logits(
        [row["text"] for row in fixtures.rows(40, seed=2)]
    )
    assert logits == pytest.approx(kept.logits, abs=1e-5)


def test_files_of_every_format_give_the_same_in_the_order_of_their_rows(
    finished: Path, tmp_path: Path, capsys
) -> None:
    texts = random.Random(3).sample(TEXTS, len(TEXTS)) * 60  # more than one chunk, lengths mixed
    expected = predicted(capsys, finished / "plain", *texts[:50])
    assert [one["text"] for one in expected] == texts[:50]
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        path = dataset_files.write(tmp_path / name, {"id": [*range(len(texts))], "review": texts})
        answers = predicted(capsys, finished / "plain", "--file", path, "--text-column", "review")
        assert [one["text"] for one in answers] == texts
        assert [one["label"] for one in answers] == [one["label"] for one in expected] * 60
    (tmp_path / "x.txt").write_text("\n".join(texts))
    assert [
        one["label"] for one in predicted(capsys, finished / "plain", "--file", tmp_path / "x.txt")
    ] == [one["label"] for one in answers]


def test_texts_of_which_nothing_is_left_have_an_error(finished: Path, capsys) -> None:
    answers = predicted(capsys, finished / "plain", "[PAD]", TEXTS[0], "[SEP] [CLS]", "\u200b")
    special = "no text (the tokenizer leaves special tokens alone of it)"
    assert [one.get("error") for one in answers] == [
        f"row 1: {special}", None, f"row 3: {special}", "row 4: no text"
    ]  # fmt: skip
    assert answers[1]["label"] == predicted(capsys, finished / "plain", TEXTS[0])[0]["label"]
    assert predicted(capsys, finished / "plain", "[PAD]")[0]["error"] == f"row 1: {special}"


def test_texts_without_finite_logits_have_an_error(finished: Path) -> None:
    """As where activations overflow in 16 bits: the first class would be their label."""
    predictor = Predictor(finished / "plain", thresholds=0.0)
    real, texts = predictor.forward, ["w1 w2 w3", "w4", "[PAD]", "w5 w6"]

    def overflowing(batch: PackedBatch) -> torch.Tensor:
        logits = real(batch)
        logits[0, 0] = torch.nan  # of the shortest text
        return logits

    predictor.forward = overflowing
    answers = predictor(texts)
    assert answers[1] == {"error": "the model's logits are not finite in float32"}
    assert "no text" in answers[2]["error"]
    predictor.forward = real
    assert [answers[0], answers[3]] == [predictor(texts)[i] for i in (0, 3)]
    (answer,) = SingleLabel(("a", "b")).answers(np.array([[np.nan, 1]], np.float32), np.zeros(1))
    assert answer["label"] is None


def test_a_precision_in_which_a_model_overflows_is_not_usable(finished: Path) -> None:
    predictor = Predictor(finished / "plain")

    class Overflowing:
        model = predictor.forward.model

        def __call__(self, batch: PackedBatch) -> torch.Tensor:
            half = torch.is_autocast_enabled(self.model.device.type)
            return predictor.forward(batch) * (torch.inf if half else 1)

    options = Overflowing(), predictor.tokenizer, "bf16"
    why = "transformers' BertForSequenceClassification fails in bf16 (its logits are not finite)"
    assert usable_precision(*options, None) == ("float32", f"this run uses float32: {why}")
    with pytest.raises(UserError, match=r"^--precision = 'bf16': .* not finite\); use float32$"):
        usable_precision(*options, "--precision")


def test_bad_rows_have_an_error_and_the_others_a_label(
    finished: Path, tmp_path: Path, capsys
) -> None:
    (tmp_path / "x.csv").write_text(f"text,n\n{TEXTS[0]},1\n,2\na,b,c\n{TEXTS[1]},4\n")
    assert predict.main([str(finished / "plain"), "--file", str(tmp_path / "x.csv")]) == 0
    out, err = capsys.readouterr()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [one.get("error", "") for one in answers] == [
        "", "row 2: no text", "row 3: 3 fields where the header has 2 (line 4); put quotes "
                              "around texts that contain the delimiter", "",
    ]  # fmt: skip
    assert ["label" in one for one in answers] == [True, False, False, True]
    assert err.splitlines() == [
        f"distsent: {tmp_path / 'x.csv'}: csv, delimiter ',', 4 rows",
        'distsent: 2 of 4 rows have no label; see their "error"',
    ]


def test_standard_input_is_labeled_line_by_line(
    finished: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TEXTS[0]}\n\n{TEXTS[1]}"))
    answers = predicted(capsys, finished / "plain")
    assert [one["text"] for one in answers] == [TEXTS[0], "", TEXTS[1]]
    assert answers[1] == {"text": "", "error": "row 2: no text"}


def test_lines_that_are_not_text_are_reported(
    finished: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys,
        "stdin",
        io.TextIOWrapper(io.BytesIO(b"caf\xe9 is nice\ncaf\xc3\xa9\n"), encoding="utf-8"),
    )
    bad, good = predicted(capsys, finished / "plain")
    assert bad == {"text": "caf\ufffd is nice", "error": "row 1: not UTF-8 (byte 0xe9)"}
    assert good["text"] == "caf\u00e9" and "label" in good
    (bad,) = predicted(
        capsys, finished / "plain", b"caf\xe9".decode(errors="surrogateescape")
    )  # as an argument comes
    assert bad == {"text": "caf\ufffd", "error": "row 1: not UTF-8 (byte 0xe9)"}


def test_only_lists_of_texts_are_accepted(finished: Path) -> None:
    from distsent.evaluation.predictor import Predictor

    predictor = Predictor(finished / "plain")
    for texts, line in (
        ("one text", r"texts: a single text; expected a list"),
        (["a", None], r"texts\[1\] = None is not text"),
    ):
        with pytest.raises(UserError, match=line):
            predictor(texts)  # type: ignore[arg-type]


def test_a_stream_is_answered_before_it_ends(finished: Path) -> None:
    import os
    import subprocess

    command = [sys.executable, "-m", "distsent.predict", str(finished / "plain")]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd=launcher.ROOT,
        env=dict(os.environ),
    ) as process:
        for text in TEXTS[:3]:
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert (
                json.loads(process.stdout.readline())["text"] == text
            )  # waits for ever if it were kept back
        process.stdin.close()
        assert process.wait(60) == 0


def test_a_missing_text_column_costs_no_loading_and_ends_with_the_command(
    finished: Path, tmp_path: Path
) -> None:
    path = dataset_files.write(tmp_path / "x.csv", {"Text": ["a"], "label": ["b"]})
    ended = launcher.run("-m", "distsent.predict", str(finished / "plain"), "--file", str(path))
    assert (ended.code, ended.output) == (
        2, f"distsent: {path}: no column 'text' (data.text_column); did you mean 'Text'? there are "
           "Text, label\n"
           f"distsent: try: python -m distsent.predict {finished / 'plain'} --file {path} "
           "data.text_column=Text\n",
    )  # fmt: skip


def test_wrong_command_lines_are_one_line(finished: Path, tmp_path: Path) -> None:
    empty, encoder = tmp_path / "empty.csv", finished.parent / "encoder"
    adapter = finished / "lora" / "model" / "adapter"
    empty.touch()
    cases = {
        (str(finished / "plain"), "a", "--file", "x.csv"): "'a' and --file: give texts or a file, "
                                                           "or data.key=value",
        (str(finished / "plain"), "a", "--pair-column", "b"): "data.pair_column=b: names a column "
                                                              "of --file: there is none",
        (str(finished / "plain"), "a", "--text-column", "b"): "data.text_column=b: names a column "
                                                              "of --file: there is none",
        (str(finished / "plain"), str(empty)): f"{empty}: a file, not a text; --file {empty} "
                                               "labels its rows",
        (str(finished / "plain"), "a", "data.header=true"): "data.header=true: a key of --file: "
                                                            "there is none",
        (str(finished / "plain"), "--file", str(empty)): f"{empty}: no column 'text' "
                                                         "(data.text_column); the file is empty",
        (str(encoder), "a"): f"{encoder}: an encoder without a classification head (its weights "
                             "lack classifier.bias, "
                             "classifier.weight); train a classifier from it with "
                             f"model.name={encoder}",
        (str(finished / "plain"), "a", "--max-length", "9999"): "max_length = 9999: this model "
                                                                "takes 3 to 258 tokens",
        (str(tmp_path), "a"): f"{tmp_path}: neither a run nor a saved model (no config.json)",
        (str(adapter), "a"): f"{adapter}: an adapter alone, without its model; did you mean "
                             f"{adapter.parent}?",
        (str(tmp_path / "x"), "a"): f"{tmp_path / 'x'}: no such run, and no such saved model",
        (str(finished / "seeds"), "a"): f"{finished / 'seeds'}: no such run, and no such saved "
                                        "model; there are runs seeds-seed1, seeds-seed2",
        (str(finished / "plian"), "a"): f"{finished / 'plian'}: no such run, and no such saved "
                                        "model; there are runs plain",
    }  # fmt: skip
    for words, line in cases.items():
        with pytest.raises(UserError) as caught:
            predict.main([*words])
        assert caught.value.lines == (line,)


def test_a_run_without_a_model_yet_says_how_it_stands(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    status = RunStatus.started("step 0 of 9").ended(STOPPED, "stop requested; saved after step 5")
    (tmp_path / "status.json").write_text(status.to_json())
    with pytest.raises(
        UserError,
        match=r"no model yet \(stopped: stop requested; saved after step 5\)",
    ):
        Predictor(tmp_path)


def test_a_model_of_the_hub_is_found_in_its_cache(finished: Path, tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--me--shipped"
    shutil.copytree(finished / "plain" / "model", repository / "snapshots" / systems.COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(systems.COMMIT)
    ended = launcher.run(
        "-m", "distsent.predict", "me/shipped", TEXTS[0], cwd=tmp_path, HF_HOME=str(tmp_path)
    )
    assert ended.code == 0, ended.output
    assert json.loads(ended.output)["scores"] == pytest.approx(
        Predictor(finished / "plain")(TEXTS[:1])[0]["scores"]
    )
    ended = launcher.run(
        "-m", "distsent.predict", "me/other", TEXTS[0], cwd=tmp_path, HF_HOME=str(tmp_path)
    )
    assert ended.code == 2 and ended.output.startswith(
        "distsent: model = 'me/other': cannot be loaded ("
    )
    assert ended.output.count("\n") == 1


def test_pairs(finished: Path, tmp_path: Path, capsys) -> None:
    path = dataset_files.write(tmp_path / "x.csv", {"text": TEXTS[:4], "other": TEXTS[4:8]})
    answers = predicted(capsys, finished / "plain", "--file", path, "--pair-column", "other")
    assert [one["pair"] for one in answers] == TEXTS[4:8]
    expected = Predictor(finished / "plain")(TEXTS[:4], TEXTS[4:8])
    assert [one["scores"] for one in answers] == [pytest.approx(one["scores"]) for one in expected]


def test_single_texts_are_no_pairs(finished: Path, tmp_path: Path, capsys) -> None:
    """The model has never seen one alone."""
    run = shutil.copytree(finished / "plain", tmp_path / "run")
    record = json.loads((run / "job.json").read_text())
    record["job"]["data"]["pair_column"] = "other"
    (run / "job.json").write_text(json.dumps(record))
    for words in (["a text"], []):  # from standard input, too
        (line,) = dataset_files.mistakes(lambda words=words: predict.main([str(run), *words]))
        assert line == (
            f"data.pair_column = 'other': {run} was trained on pairs of texts, and these have no "
            "second one; --file FILE gives both"
        )
    path = dataset_files.write(tmp_path / "x.csv", {"text": TEXTS[:2], "other": TEXTS[2:4]})
    assert [one["pair"] for one in predicted(capsys, run, "--file", path)] == TEXTS[2:4]
    assert "label a text" in next_commands(run) and "label a text" not in next_commands(run, True)
