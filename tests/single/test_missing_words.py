"""Texts such as NULL: named, and missing if `data.na_values` says so, for all programs alike."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distsent import predict
from distsent.data.dataset import open_dataset
from distsent.data.texts import TextFile
from tests.dataset_files import data, mistakes, write
from tests.dataset_files import own_cache as own_cache
from tests.public_files import sentence

pytestmark = pytest.mark.usefixtures("own_cache")

LONG = [sentence(i) for i in range(12)]
CHAT = ["ok", "none", "yes", "ok", "NULL", "lol", "ok", "yes"]
ASKED = "x{}: column 'text': {}, and no other text as short as often: data.na_values = {} if it "


def dataset(path: Path, suffix: str, texts: Sequence[Any], **keys: Any) -> Any:
    labels = ["ab"[i % 2] for i in range(len(texts))]
    file = write(path / f"x{suffix}", {"text": texts, "label": labels})
    return open_dataset(data(file, validation_fraction=0.25, **keys), 1)


@pytest.mark.parametrize(("suffix", "word"), [
    (".csv", "NULL"), (".csv", " nan "), (".jsonl", "None"), (".parquet", "nan"), (".tsv", r"\N"),
    (".xlsx", "#N/A"), (".csv", "n/a"), (".parquet", "<NA>"),
])  # fmt: skip
def test_words_that_stand_out_are_refused_until_the_job_says_what_they_are(
    tmp_path: Path, suffix: str, word: str
) -> None:
    texts, shown = [*LONG, word, word], word.strip()
    (line, *others) = mistakes(lambda: dataset(tmp_path, suffix, texts).splits)
    says = f'["{shown}"]' if shown != r"\N" else r'["\\N"]'
    assert line.startswith(ASKED.format(suffix, f"2 rows with {shown!r}", says))
    assert "2 rows with no text" in others[0]  # of the keys that repair it
    kept = dataset(tmp_path, suffix, texts, na_values=())
    assert sum(map(len, kept.splits.values())) == 14
    assert not any(shown in line for line in kept.find_warnings())
    keys: dict[str, Any] = {"na_values": (shown,)}
    (line,) = mistakes(lambda: dataset(tmp_path, suffix, texts, **keys).splits)
    assert "2 rows with no text (null, empty or only white space): row 13, row 14" in line
    dropped = dataset(tmp_path, suffix, texts, **keys, drop_bad_rows=True)
    assert sum(map(len, dropped.splits.values())) == 12


def test_what_people_write_is_text_and_a_line_names_it(tmp_path: Path) -> None:
    found = dataset(tmp_path, ".csv", [*LONG, *CHAT])
    assert sum(map(len, found.splits.values())) == 20
    lines = [line for line in found.find_warnings() if "missing" in line]
    assert lines == [
        f"x.csv: column 'text': 1 row with the text {word!r}: is it a missing one? "
        f'data.na_values = ["{word}"] says so'
        for word in ("NULL", "none")
    ]
    assert dataset(tmp_path, ".csv", [*LONG, "a null", "nan nan"]).find_warnings() == []


def test_predict_and_evaluate_read_the_same_texts_as_missing(tmp_path: Path) -> None:
    texts = ["NULL", *LONG, " NULL", "null"]
    section = data(write(tmp_path / "x.csv", {"text": texts, "label": ["a", "b", "a"] * 5}))
    for words, bad in (((), []), (("NULL",), [1, 14]), (("NULL", "null"), [1, 14, 15])):
        keys: dict[str, Any] = {"na_values": words, "drop_bad_rows": True}
        job = data(section.source, **keys)
        found = [text.row for text in TextFile(section.source, job) if text.error == "no text"]
        scored = open_dataset(job, 1, only="train").splits["train"]
        assert found == bad and len(scored) == 15 - len(bad)


def test_predict_names_texts_that_may_be_missing_once(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It labels them, as training takes them for texts, unless the key says what they are."""
    texts = ["NULL", "w1 w2", " NULL", "none", "w3 none"]
    file = write(tmp_path / "x.csv", {"text": texts})
    asks = "the text {}: is it a missing one? data.na_values = [{}] says so"
    for words, lines, errors in (
        ([], [f"2 rows with {asks}".format("'NULL'", '"NULL"'),
              f"1 row with {asks}".format("'none'", '"none"')], 0),
        (["data.na_values=[]"], [], 0),
        (["data.na_values=[NULL]"], [], 2),
    ):  # fmt: skip
        for path in (file, file.parent):
            assert predict.main([str(finished / "plain"), "--file", str(path), *words]) == 0
            out, err = capsys.readouterr()
            found = [line for line in err.splitlines() if "missing" in line]
            assert found == [f"distsent: {path}: {line}" for line in lines]
            assert out.count('"error"') == errors and len(out.splitlines()) == 5


def test_predict_takes_single_texts_as_missing_that_the_run_did(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    run = shutil.copytree(finished / "plain", tmp_path / "run")
    record = json.loads((run / "job.json").read_text())
    record["job"]["data"]["na_values"] = ["NULL"]
    (run / "job.json").write_text(json.dumps(record))
    texts = ["w1 w2", " NULL", "null"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    for words in (texts, []):
        assert predict.main([str(run), *words]) == 0
        answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [one.get("error") for one in answers] == [None, "row 2: no text", None]


def test_a_store_of_other_missing_texts_is_another_one(tmp_path: Path) -> None:
    texts = [*LONG, "ok", "ok"]
    prints = {
        dataset(tmp_path, ".csv", texts, **keys).fingerprint
        for keys in ({}, {"na_values": ()}, {"na_values": ("ok",)})
    }
    assert len(prints) == 3
