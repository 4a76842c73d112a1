"""One reader for training and prediction: both get the same texts and the same errors."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from distsent.data.dataset import open_dataset
from distsent.data.texts import TextFile
from distsent.formats.file import File
from distsent.formats.open import open_file
from tests.dataset_files import data, folder, mistakes, own_cache, reviews, write  # noqa: F401

pytestmark = pytest.mark.usefixtures("own_cache")

WRITTEN = (".csv", ".tsv", ".json", ".jsonl", ".parquet", ".arrow", ".feather", ".xlsx")
TEXTS = ["a\r\nb", "a\rb", "line\u2028separator", '"quoted"', "tab\tsemicolon;", "é 🎬"]


def trained(path: Path) -> list[str]:
    """The texts that training reads."""
    write(path.parent / "test.csv", reviews(2))
    return open_dataset(data(path.parent), 1).splits["train"].texts(slice(None))


@pytest.mark.parametrize("suffix", WRITTEN)
def test_training_and_prediction_read_the_same_texts(tmp_path: Path, suffix: str):
    columns = {"text": TEXTS, "label": [i % 2 for i in range(len(TEXTS))]}
    path = write(tmp_path / f"train{suffix}", columns)
    assert trained(path) == [text.text for text in TextFile(path)] == TEXTS


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_all_systems(tmp_path: Path, end: str):
    path = tmp_path / "train.csv"
    rows = ["", "text,label", "a,0", "", '"b, c",1']
    path.write_bytes(end.join(rows).encode())
    assert trained(path) == [text.text for text in TextFile(path)] == ["a", "b, c"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("train.csv", b"text,label\na,0\nb,c,1\n", "3 fields where the header has 2 (line 3); "
         "put quotes around texts that contain the delimiter"),
        ("train.jsonl", b'{"text": "a", "label": 0}\n\n{"text\n', "not JSON (Unterminated string "
                                                                  "starting at, column 2)"),
        ("train.json", b'[{"text": "a", "label": 0}, 5]', "5 is not an object with columns"),
    ],
)  # fmt: skip
def test_training_refuses_the_row_that_prediction_reports(
    tmp_path: Path, name: str, content: bytes, error: str
):
    path = tmp_path / name
    path.write_bytes(content)
    assert [(text.row, text.error) for text in TextFile(path)] == [(1, ""), (2, error)]
    assert mistakes(lambda: trained(path)) == [f"{name}, row 2: {error}"]


def test_quotes_that_can_only_be_letters_are_letters_for_both(tmp_path: Path):
    path = tmp_path / "train.tsv"
    path.write_text('text\tlabel\n"Avatar" was great.\t1\nplain\t0\n"open\t1\n')
    assert trained(path) == [text.text for text in TextFile(path)]
    assert trained(path) == ['"Avatar" was great.', "plain", '"open']


def test_half_a_character_is_an_error_of_its_row_in_training_too(tmp_path: Path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{"text": "b \\ud83d", "label": 1}\n')
    assert mistakes(lambda: trained(path)) == [
        "train.jsonl, row 2: column 'text': half a character (\\ud83d)"
    ]


def test_a_column_that_occurs_twice_is_refused(tmp_path: Path):
    path = tmp_path / "train.csv"
    path.write_text("text,label,text\na,0,b\n")
    fix = "2 columns are called 'text' ({}): columns 1 and 3; rename them"
    assert mistakes(lambda: trained(path)) == [f"train.csv: {fix.format('data.text_column')}"]
    assert mistakes(lambda: TextFile(path)) == [f"{path}: {fix.format('data.text_column')}"]


def test_the_first_json_rows_may_lack_a_column(tmp_path: Path):
    path = tmp_path / "train.jsonl"
    rows = [{"text": "a"}, {"text": "b", "label": 1}, {"text": "c", "label": 0}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [text.text for text in TextFile(path)] == ["a", "b", "c"]
    assert mistakes(lambda: trained(path)) == [
        "train.jsonl: 1 row with no label: row 1; data.drop_bad_rows = true leaves such rows out"
    ]


@pytest.mark.parametrize("content", ['{"text": "a", "label": 0}\n{"text": "b", "label": 1}',
                                     '\ufeff [{"text": "a", "label": 0},\n{"text": "b", "label": '
                                     '1}]'])  # fmt: skip
def test_json_is_a_list_or_one_object_per_line(tmp_path: Path, content: str):
    path = tmp_path / "train.json"
    path.write_text(content, encoding="utf-8")
    file = TextFile(path)
    assert trained(path) == [text.text for text in file] == ["a", "b"]
    assert file.done() == 1.0


def test_parquet_that_is_not_utf8_is_one_bad_row_in_prediction(tmp_path: Path):
    broken = pa.array([b"fine", b"caf\xe9", None], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": broken}), tmp_path / "x.parquet")
    assert [(text.text, text.error) for text in TextFile(tmp_path / "x.parquet")] == [
        ("fine", ""),
        ("caf\ufffd", "not UTF-8 (byte 0xe9)"),
        ("", "no text"),
    ]


def test_a_file_without_rows(tmp_path: Path):
    for suffix, content in ((".csv", "text\n"), (".jsonl", ""), (".json", "[]"), (".txt", "")):
        path = tmp_path / f"x{suffix}"
        path.write_text(content)
        assert [*TextFile(path)] == []


def test_readers_close_their_files(tmp_path: Path):
    for suffix in (*WRITTEN, ".txt"):
        path = write(tmp_path / f"x{suffix}", {"text": ["a", "b"]})
        with open_file(File(path, path.name)) as reader:
            assert 0.0 <= reader.done() <= 1.0
        assert reader._file.closed
        assert len([*open_file(File(path, path.name)).records(["text"])]) == 3 - (suffix != ".txt")
