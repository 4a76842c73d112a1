"""Each mistake in a dataset is reported in a line with file and row, before training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from distsent.data.dataset import open_dataset
from distsent.data.labels.names import Naming
from tests.dataset_files import Columns, data, folder, mistakes, reviews, write
from tests.dataset_files import own_cache as own_cache

pytestmark = pytest.mark.usefixtures("own_cache")

FIX = "data.drop_bad_rows = true leaves such rows out"
GOOD = reviews(8, 100)


def texts(values: Sequence[Any], labels: Sequence[Any] | None = None) -> Columns:
    return {"text": values, "label": labels or [i % 2 for i in range(len(values))]}


def wrong(path: Path, **keys: Any) -> list[str]:
    return mistakes(lambda: open_dataset(data(path, **keys), 1).find_warnings())


def test_a_position_of_a_column_that_is_read_by_name(tmp_path: Path):
    source = folder(tmp_path, ".csv", train=reviews(8), test=GOOD)
    same = "data.text_position = 1 and data.label_column are the same column, 'label'; name two"
    assert wrong(source, text_position=1) == [f"{name}.csv: {same}" for name in ("train", "test")]


def test_a_sound_dataset_passes(tmp_path: Path):
    assert (
        open_dataset(data(folder(tmp_path, train=reviews(8), test=GOOD)), 1).find_warnings() == []
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_a_missing_column_and_the_closest_one(tmp_path: Path, suffix: str):
    folder(tmp_path, suffix, train={"Text": ["a"], "sentiment": [1]}, test=GOOD)
    assert wrong(tmp_path) == [
        f"train{suffix}: no column 'text' (data.text_column); did you mean 'Text'? there are "
        "Text, sentiment",
        f"train{suffix}: no column 'label' (data.label_column); did you mean 'sentiment'? "
        "there are Text, sentiment",
    ]
    assert wrong(
        tmp_path / f"train{suffix}", text_column="Text", label_column="sentiment", pair_column="b"
    ) == [
        f"train{suffix}: no column 'b' (data.pair_column); there are Text, sentiment",
        "the dataset has neither a validation nor a test split: set data.validation_fraction or "
        "data.test_fraction, e.g. 0.1",
    ]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_an_empty_file(tmp_path: Path, suffix: str):
    folder(tmp_path, suffix, train=reviews(4), test=GOOD)
    (tmp_path / f"test{suffix}").write_text("" if suffix != ".json" else "[]")
    assert wrong(tmp_path) == [
        f"test{suffix}: no column 'text' (data.text_column); the file is empty",
        f"test{suffix}: no column 'label' (data.label_column); the file is empty",
    ]


def test_a_split_without_rows(tmp_path: Path):
    folder(tmp_path, ".csv", train=reviews(4), test={"text": [], "label": []})
    assert wrong(tmp_path) == ["the test split has no rows"]
    folder(
        tmp_path / "p",
        train=reviews(4),
        test={"text": pa.array([], pa.string()), "label": pa.array([], pa.int64())},
    )
    assert wrong(tmp_path / "p") == ["the test split has no rows"]
    folder(tmp_path / "q", ".csv", train={"text": [], "label": []}, test=GOOD)
    assert wrong(tmp_path / "q")[0] == "the train split has no rows"


EMPTY = ["fine", "", "  \t", "fine, too", "\u00a0\n", " ", "good"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_rows_without_text(tmp_path: Path, suffix: str):
    folder(tmp_path, suffix, train=texts(EMPTY), test=GOOD)
    assert wrong(tmp_path) == [
        f"train{suffix}: 4 rows with no text (null, empty or only white space): row 2, row 3, "
        f"row 5 and 1 more; {FIX}"
    ]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_rows_whose_text_is_null(tmp_path: Path, suffix: str):
    folder(tmp_path, suffix, train=texts(["a", None, "b", "c"]), test=texts([None, None]))
    assert wrong(tmp_path) == [
        f"train{suffix}: 1 row with no text (null, empty or only white space): row 2",
        f"test{suffix}: 2 rows with no text (null, empty or only white space): row 1, row 2; {FIX}",
        "the test split has no rows",
    ]


def test_an_empty_second_text(tmp_path: Path):
    columns = {"text": ["a", "b", "c"], "more": ["x", "", "y"], "label": [0, 1, 0]}
    folder(tmp_path, train=columns, test=columns)
    assert wrong(tmp_path, pair_column="more")[0] == (
        "train.parquet: 1 row with no text (null, empty or only white space): row 2"
    )


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_without_label(tmp_path: Path, suffix: str):
    folder(tmp_path, suffix, train=texts(["a", "b", "c", "d"], [0, None, 1, None]), test=GOOD)
    assert wrong(tmp_path) == [f"train{suffix}: 2 rows with no label: row 2, row 4; {FIX}"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_that_are_not_labeled(tmp_path: Path, suffix: str):
    """-1 is the mark of rows without label, unless it is as frequent as a class."""
    five = [0, -1, 1, 0, 1]
    folder(tmp_path, suffix, train=texts(["a", "b", "c", "d", "e"], five), test=GOOD)
    assert wrong(tmp_path) == [
        f"train{suffix}: 1 row with the label -1 (not labeled; if it is a class, name it in "
        f"data.labels): row 2; {FIX}"
    ]
    folder(tmp_path, suffix, train=texts(["a", "b", "c", "d"], [0, -1, 1, 0]), test=GOOD)
    for drop in (False, True):
        assert wrong(tmp_path, drop_bad_rows=drop) == [
            f'train{suffix}: 1 row with the label -1: row 2; set data.labels = ["-1", "0", "1"] if '
            'it is a class, or data.drop_labels = ["-1"] if it means not labeled'
        ]
    for keys in ({"drop_bad_rows": True, "labels": ("0", "1")}, {"drop_labels": ("-1",)}):
        assert len(open_dataset(data(tmp_path, **keys), 1).splits["train"]) == 3


def test_rows_of_labels_that_the_job_leaves_out(tmp_path: Path):
    """SNLI marks the pairs without agreement with "-"."""
    rows = texts(["a", "b", "", "c", "d"], ["x", "y", "-", "x", "y"])
    folder(tmp_path, ".csv", train=rows, validation=rows, test=texts(["e", "f"], ["-", "-"]))
    keys = data(tmp_path, drop_labels=("-",))
    dataset = open_dataset(keys, 1)
    counts = {name: len(split) for name, split in dataset.splits.items()}
    assert (counts, dataset.label_names) == ({"train": 4, "validation": 4}, ("x", "y"))
    assert dataset.find_warnings()[:3] == [
        "train: 1 row left out by data.drop_labels",
        "validation: 1 row left out by data.drop_labels",
        "test: 2 rows left out by data.drop_labels",
    ]
    assert open_dataset(data(tmp_path), 1).fingerprint != dataset.fingerprint
    trained = Naming.of_model(dataset.label_names, dataset.label_values)
    scored = open_dataset(keys, 1, only="validation", naming=trained)
    assert len(scored.splits["validation"]) == 4
    assert mistakes(lambda: open_dataset(keys, 1, only="test", naming=trained).splits) == [
        "the test split has no rows"
    ]


def test_labels_outside_the_classes(tmp_path: Path):
    folder(
        tmp_path,
        ".csv",
        train=texts(["a", "b", "c"], ["neg", "pos", "neutral"]),
        test=texts(["x", "y"], ["pos", "neg"]),
    )
    assert wrong(tmp_path, labels=("neg", "pos")) == [
        f"train.csv: 1 row with a label outside the classes neg, pos: row 3 ('neutral'); {FIX}"
    ]
    assert wrong(tmp_path, labels=("a", "b")) == [
        "train.csv, test.csv: column 'label': none of the values that data.labels names ('a', 'b') "
        "occurs; it contains 'neg', 'neutral', 'pos'"
    ]


def test_bad_rows_of_the_second_shard_are_counted_from_its_start(tmp_path: Path):
    write(tmp_path / "train-00000-of-00002.parquet", reviews(5))
    write(tmp_path / "train-00001-of-00002.parquet", texts(["a", "", "b"]))
    write(tmp_path / "test.parquet", GOOD)
    assert wrong(tmp_path) == [
        "train-00001-of-00002.parquet: 1 row with no text (null, empty or only white space): row "
        "2; " + FIX
    ]


def test_an_empty_review_of_the_imdb_tree(tmp_path: Path):
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            (tmp_path / split / label).mkdir(parents=True)
            (tmp_path / split / label / "0_1.txt").write_text("x")
    (tmp_path / "train" / "pos" / "7_9.txt").write_text(" \n")
    assert wrong(tmp_path) == [
        f"train: 1 row with no text (null, empty or only white space): train/pos/7_9.txt; {FIX}"
    ]
    (tmp_path / "train" / "pos" / "7_9.txt").write_bytes(b"caf\xe9")
    assert wrong(tmp_path) == [
        'train/pos/7_9.txt: not UTF-8 (byte 0xe9, line 1), likely cp1252 ("café"); '
        'data.encoding = "cp1252" reads it'
    ]


UTF8 = "leave the key out (other files that need it: iconv -f {} -t utf-8 FILE > NEW)"


@pytest.mark.parametrize(
    ("content", "keys", "line"),
    [
        ("café", {"encoding": "latin-1"},
         f"data.encoding = 'latin-1', but the text is UTF-8; {UTF8.format('latin-1')} "
         "(3 files are like this)"),
        ("café", {"encoding": "ascii", "encoding_errors": "replace"},
         "no text in ascii: 6 of 15 characters cannot be decoded; another data.encoding may fit "
         "(3 files are like this)"),
        (b"\xff\xfea\0", {"encoding": "utf-8"},
         "starts with the mark of utf-16-le, which data.encoding = 'utf-8' contradicts; leave the "
         "key out: the mark decides (3 files are like this)"),
        (b"a\0b\0", {},
         'text in utf-16-le without a mark; data.encoding = "utf-16-le" reads it (3 files are '
         "like this)"),
        (b"a\0b\0", {"encoding": "utf-16"},
         'data.encoding = "utf-16", but the file does not start with a mark; data.encoding = '
         '"utf-16-le" says which one it is (3 files are like this)'),
        (b"\x1b$B$3\x1b(B", {},
         'seems to be in an encoding of 7 bits (there is ESC $); data.encoding = "iso2022_jp" or '
         '"iso2022_kr" reads it, "utf-8" takes it as it is (3 files are like this)'),
    ],
)  # fmt: skip
def test_an_encoding_that_is_in_doubt_in_a_folder_of_texts(
    tmp_path: Path, content: str | bytes, keys: dict[str, Any], line: str
):
    """As in a table. Of the texts of a split, the first is shown."""
    content = content.encode() if isinstance(content, str) else content
    for name in ("train/a/1", "train/a/2", "train/b/1", "test/a/1", "test/b/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.txt").write_bytes(content)
    assert wrong(tmp_path, **keys) == [f"train/a/1.txt: {line}"]


def test_a_text_that_is_utf8_by_chance(tmp_path: Path):
    """Two characters of cp1251 may be one of UTF-8."""
    for name, text in {"a/1": "Да", "a/2": "нет", "b/1": "Г»", "b/2": "так"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.txt").write_bytes(text.encode("cp1251"))
    keys = data(tmp_path, encoding="cp1251", test_fraction=0.5)
    found = open_dataset(keys, 1).splits.values()
    assert {*chain.from_iterable(split.texts(slice(None)) for split in found)} == {
        "Да", "нет", "Г»", "так",
    }  # fmt: skip


def test_bad_rows_may_be_dropped_and_are_counted(tmp_path: Path):
    folder(tmp_path, train=texts(["a", "", None, "b", "c", "d"], [0, 1, 0, None, -1, 1]), test=GOOD)
    dataset = open_dataset(data(tmp_path, drop_bad_rows=True), 1)
    assert dataset.find_warnings() == [
        "train: dropped 4 of 6 rows without text or label (1 with the label -1)"
    ]
    split = dataset.splits["train"]
    assert (split.texts(slice(None)), split.labels.tolist(), split.rows.tolist()) == (
        ["a", "d"],
        [0, 1],
        [0, 5],
    )
    assert split.origin(1) == "train.parquet, row 6"


@pytest.mark.parametrize(
    ("label", "keys"), [(-1, {}), (None, {}), ("", {}), (-1, {"drop_bad_rows": True})]
)
def test_a_test_split_without_labels_is_left_out_of_scoring(tmp_path: Path, label, keys: dict):
    unlabeled = texts(["a", "b"], [label, label])
    folder(tmp_path, train=reviews(4), validation=GOOD, test=unlabeled)
    dataset = open_dataset(data(tmp_path, **keys), 1)
    assert dataset.find_warnings() == ["test: not used, none of its 2 rows has a label"]
    assert [*dataset.splits] == ["train", "validation"]
    assert mistakes(lambda: open_dataset(data(tmp_path, **keys), 1, only="test").splits) == [
        f"data.source = {str(tmp_path)!r}: the test split has no labels to score it by; "
        "predict labels it"
    ]


def test_minus_one_is_a_label_where_the_job_names_it(tmp_path: Path):
    folder(tmp_path, train=texts(["a", "b"], [-1, 1]), test=texts(["c"], [-1]))
    dataset = open_dataset(data(tmp_path, labels=("-1", "1")), 1)
    assert dataset.splits["test"].labels.tolist() == [0]


def test_a_competitions_test_file_without_a_label_column(tmp_path: Path):
    """A column that the training file lacks may be the label under another name."""
    folder(tmp_path, ".csv", train={"id": [*range(10)], **reviews(10)},
           test={"id": [1, 2], "text": ["a", "b"]})  # fmt: skip
    assert wrong(tmp_path)[0].startswith("the dataset has neither a validation nor a test split")
    dataset = open_dataset(data(tmp_path, test_fraction=0.2), 1)
    assert dataset.find_warnings() == ["test: not used, test.csv has no label column"]
    assert [*dataset.splits] == ["train", "test"]
    write(tmp_path / "test.csv", {"id": [1, 2], "text": ["a", "b"], "Target": [0, 1]})
    assert wrong(tmp_path)[0].startswith("test.csv: no column 'label' (data.label_column)")


def test_columns_of_the_wrong_kind(tmp_path: Path):
    folder(tmp_path, train={"text": [1, 2], "label": [0, 1]}, test=GOOD)
    assert wrong(tmp_path) == ["train.parquet: column 'text' contains int64, not text"]
    folder(
        tmp_path / "l",
        train={"text": ["a", "b"], "label": [[0], [1]]},
        test={"text": ["a"], "label": [[0]]},
    )
    assert wrong(tmp_path / "l") == [
        "test.parquet, row 1: column 'label' (list<element: int64>): [0]: several labels need "
        'data.task = "multi_label"'
    ]
    folder(tmp_path / "f", train=texts(["a", "b"], [0.25, 1.0]), test=GOOD)
    assert wrong(tmp_path / "f") == [
        "train.parquet, test.parquet: column 'label' contains numbers such as 0.25 ('0', '0.25', "
        "'1'): data.task = \"regression\" learns numbers; as classes, name all of them in "
        "data.labels"
    ]
    many = reviews(1001)
    folder(
        tmp_path / "m",
        train={"text": many["text"], "label": many["text"]},
        test={"text": ["x"], "label": ["y"]},
    )
    (line,) = wrong(tmp_path / "m")
    assert line == (
        "train.parquet, test.parquet: column 'label' contains 1,001 different values ('the film 0 "
        "was dull, so', 'the film 1 was good, very so', 'the film 10 was dull, so' and 998 more), "
        "at most 1,000 are possible; it looks like a text or an id column: are they classes?"
    )


def test_json_rows_of_the_wrong_kind(tmp_path: Path):
    folder(tmp_path, ".jsonl", train=texts(["a", 5, {"b": 1}, "c"]), test=GOOD)
    assert wrong(tmp_path) == ["train.jsonl, row 2: column 'text': 5 is not text"]
    assert open_dataset(data(tmp_path, drop_bad_rows=True), 1).find_warnings() == [
        "train: dropped 2 of 4 rows without text or label"
    ]
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n\n["b", 0]\n')
    assert wrong(tmp_path) == ['train.jsonl, row 2: ["b", 0] is not an object with columns']
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 1}\n{"text": "b", "label": \n')
    assert wrong(tmp_path) == ["train.jsonl, row 2: not JSON (Expecting value, column 23)"]


def test_csv_that_is_not_well_formed(tmp_path: Path):
    write(tmp_path / "test.csv", GOOD)
    train = tmp_path / "train.csv"
    train.write_text("text,label\na,1\nb, and c,0\n")
    assert wrong(tmp_path) == [
        "train.csv, row 2: 3 fields where the header has 2 (line 3); put quotes around texts "
        "that contain the delimiter"
    ]
    train.write_text('text,label\n"a, b",1\n"b,0\nc,1\n')
    assert wrong(tmp_path) == [
        'train.csv, row 2 (line 3): a quote is never closed ("b,0); with quotes as letters, row 1: '
        "3 fields where the header has 2 (line 2); correct it"
    ]
    train.write_bytes("text,label\na,1\ncafé,0\n".encode("latin-1"))
    assert wrong(tmp_path) == [
        'train.csv: not UTF-8 (byte 0xe9, line 3), likely cp1252 ("café,0"); '
        'data.encoding = "cp1252" reads it'
    ]


def test_files_that_are_not_what_they_say(tmp_path: Path):
    folder(tmp_path, train=reviews(4), test=GOOD)
    (tmp_path / "test.parquet").write_bytes(b"this is not parquet")
    (line,) = wrong(tmp_path)
    assert line.startswith(
        "test.parquet: not parquet, or damaged ("
    ) and "arquet" in line.removeprefix("test.parquet")
    torn = parquet_bytes(tmp_path / "train.parquet")
    (tmp_path / "train.parquet").write_bytes(torn[: len(torn) // 2])
    write(tmp_path / "test.parquet", GOOD)
    assert wrong(tmp_path)[0].startswith("train.parquet: not parquet, or damaged (")


def parquet_bytes(path: Path) -> bytes:
    return path.read_bytes()


def test_a_text_that_is_not_utf8(tmp_path: Path):
    broken = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    parquet.write_table(pa.table({"text": broken, "label": [0, 1]}), tmp_path / "train.parquet")
    write(tmp_path / "test.parquet", GOOD)
    assert wrong(tmp_path) == ["train.parquet, row 2: the text is not UTF-8 (byte 0xe9)"]


def test_classes_that_differ_between_splits(tmp_path: Path):
    folder(
        tmp_path,
        train=texts(["a", "b"], ["x", "y"]),
        validation=texts(["c", "d", "e"], ["x", "z", "z"]),
        test=texts(["f"], ["z"]),
    )
    assert wrong(tmp_path) == [
        "class 'z' has no training rows, but validation has 2 rows and test has 1 row of it; if "
        'it is not a class, data.drop_labels = ["z"] leaves these rows out'
    ]


def test_a_split_whose_classes_all_have_other_names(tmp_path: Path):
    folder(
        tmp_path,
        train=texts(["a", "b", "c", "d"], ["0", "1", "0", "1"]),
        test=texts(["f", "g"], ["neg", "pos"]),
    )
    (line,) = wrong(tmp_path)
    assert line.startswith("test: none of its labels, 'neg', 'pos', occurs in train, which has '0'")


def test_many_classes_that_train_lacks_are_counted(tmp_path: Path):
    train, test = [f"class {i % 9}" for i in range(40)], [f"class {i % 30}" for i in range(40)]
    texts_of = [f"text {i}" for i in range(40)]
    folder(tmp_path, train=texts(texts_of, train), test=texts(texts_of, test))
    lines = wrong(tmp_path)
    assert len(lines) == 4 and lines[0].startswith("class 'class 10' has no training rows, but ")
    assert lines[3] == "18 more classes have no training rows"


def test_no_class_has_two_rows(tmp_path: Path):
    folder(tmp_path, train=texts(["a", "b", "c"], ["x", "y", "z"]))
    path = tmp_path / "train.parquet"
    assert wrong(path, test_fraction=0.5) == [
        "train.parquet: column 'label': no class has two rows ('x', 'y', 'z')"
    ]


def test_a_single_class(tmp_path: Path):
    folder(tmp_path, train=texts(["a", "b"], ["x", "x"]), test=texts(["c"], ["x"]))
    assert wrong(tmp_path) == ["all training rows are of one class, 'x': nothing to learn"]


def test_a_class_without_rows(tmp_path: Path):
    folder(tmp_path, train=reviews(4), test=GOOD)
    assert open_dataset(data(tmp_path, labels=("neg", "pos", "mixed")), 1).find_warnings() == [
        "class 'mixed' has no rows in any split"
    ]


def test_a_draw_of_training_rows_keeps_each_class_where_it_can(tmp_path: Path):
    columns = texts([f"text {i}" for i in range(100)], [i if i < 3 else 0 for i in range(100)])
    folder(tmp_path, train=columns, test=texts([f"x {i}" for i in range(9)], [0, 1, 2] * 3))
    dataset = open_dataset(data(tmp_path, max_rows=3), 2)
    assert (dataset.find_warnings(), set(dataset.splits["train"].labels)) == ([], {0, 1, 2})
    few = open_dataset(data(tmp_path, max_rows=2, max_eval_rows=2), 2)
    lines = few.find_warnings()
    assert [line.split(" contain")[0] for line in lines] == [
        "train: the 2 rows that data.max_rows selected",
        "test: the 2 rows that data.max_eval_rows selected",
    ]
    assert len(set(few.splits["train"].labels)) == 2


def test_texts_that_also_occur_in_train(tmp_path: Path):
    folder(tmp_path, train=reviews(10), validation=reviews(4, 8), test=reviews(6, 50))
    assert open_dataset(data(tmp_path), 1).find_warnings() == [
        "validation: 2 of 4 texts are in train, too; scores on them are too high"
    ]
