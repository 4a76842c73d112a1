"""Which files are which split: every layout that public datasets come in, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from distsent.cli import repaired_commands
from distsent.data.dataset import TextDataset, open_dataset
from distsent.errors import UserError
from distsent.formats.read_as import lines_of
from distsent.job import load_job
from tests.dataset_files import data, mistakes, own_cache, reviews, write  # noqa: F401
from tests.layouts import CUT, FOUR, LABELS, LAYOUTS, MIXED, ROWS, TEXTS, TWO, Layout, shards, tree
from tests.public_files import sentence
from tests.single.test_dataset import hub_cache

pytestmark = pytest.mark.usefixtures("own_cache")


def rows_of(dataset: TextDataset) -> dict[str, list[tuple[str, str]]]:
    names = dataset.label_names
    return {
        name: [*zip(split.texts(slice(None)), (names[i] for i in split.labels), strict=True)]
        for name, split in dataset.splits.items()
    }


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_its_rows(tmp_path: Path, name: str):
    layout = LAYOUTS[name]
    found = rows_of(open_dataset(data(layout.make(tmp_path), **layout.keys), 1))
    expected = layout.rows or ROWS
    if "test_fraction" in layout.keys:
        assert sorted(found["train"] + found["test"]) == sorted(expected["train"])
    else:
        assert found == expected


NOT_UTF8 = os.fsdecode(b"caf\xe9")
LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 123\n"
HERE = "data.source = '{folder}': "
COPIES = {"labeledTrainData.tsv": FOUR, "unlabeledTrainData.tsv": {"text": ["a"]}}
TABLES = {f"{name}.csv": {"text": [f"{name} so", f"{name} no"]} for name in ("a/1", "a/2", "b/1")}
SPLIT = {"train": 4, "test": 2}
# What is not clear is refused, with the key that decides; what a name says is read
NEITHER = [
    "the dataset has neither a validation nor a test split: set data.validation_fraction or "
    "data.test_fraction, e.g. 0.1"
]
REFUSED: dict[str, tuple[Layout, list[str] | dict[str, int]]] = {
    "a shard is missing": (
        Layout("", {k: v for k, v in shards("data/").items() if "00002" not in k}),
        ["data.source = '{folder}/data': 1 of 4 shards are missing: train-00002-of-00004.parquet; "
         "get them, too"],
    ),
    "a shard alone": (
        Layout("", dict([*shards("").items()][:1]), source="train-00000-of-00004.parquet"),
        ["data.source = '{folder}/train-00000-of-00004.parquet': 3 of 4 shards are missing: "
         "train-00001-of-00004.parquet, train-00002-of-00004.parquet, "
         "train-00003-of-00004.parquet; name their folder"],
    ),
    "two training files": (
        Layout("", {"train1.csv": FOUR, "train2.csv": FOUR}),
        [HERE + "the train split exists twice, as train1.csv and train2.csv; keep one, or choose: "
         'data.train = "train1.csv"', *NEITHER,
         "data.validation_fraction = 0.1: selects no rows out of 4"],
    ),
    "one of them without labels": (Layout("", {**COPIES, "testData.tsv": TWO}), SPLIT),
    "two splits twice": (
        Layout("", {"train.tsv": FOUR, "dev_a.tsv": TWO, "dev_b.tsv": TWO, "test_a.tsv": TWO,
                    "test_b.tsv": TWO}),
        [HERE + 'the validation split exists twice, as dev_a.tsv and dev_b.tsv; keep one, or '
         'choose: data.validation = "dev_a.tsv"',
         HERE + 'the test split exists twice, as test_a.tsv and test_b.tsv; keep one, or choose: '
         'data.test = "test_a.tsv"'],
    ),
    "one of them chosen": (
        Layout("", {"train.tsv": FOUR, "test_a.tsv": TWO, "test_b.tsv": FOUR},
               {"test": "test_a.tsv"}), SPLIT,
    ),
    "files that may be classes": (
        Layout("", {"data/True.csv": {"text": ["a"]}, "data/Fake.csv": {"text": ["b"]}}),
        ["data.source = '{folder}/data': which of Fake.csv, True.csv are training rows? "
         'data.train = "data/Fake.csv" names them, data.train = "data/*.csv" names all; data.train '
         '= {{ Fake = "data/Fake.csv", True = "data/True.csv" }} if each file is a class', *NEITHER,
         "data/Fake.csv, data/True.csv: column 'label': no class has two rows ('Fake', 'True')"],
    ),
    "several configurations": (
        Layout("", {**shards("sst2/"), **shards("cola/")}),
        [HERE + 'several datasets, cola, sst2; data.source = "{folder}/cola" names one', *NEITHER,
         "data.validation_fraction = 0.1: selects no rows out of 4"],
    ),
    "one of them": (Layout("", {**shards("a/"), **shards("b/")},
                           {"train": "a/*.parquet", "test_fraction": 0.5}),
                    {"train": 2, "test": 2}),
    "parallel files of different length": (
        Layout("", {"train_text.txt": TEXTS, "train_labels.txt": "1\n0\n"}, CUT),
        ["train_text.txt has 4 lines, train_labels.txt 2: they belong together line by line, so "
         "one of them is wrong"],
    ),
    "two files of labels": (
        Layout("", {"train/sents.txt": TEXTS, "train/topics.txt": LABELS,
                    "train/sentiments.txt": LABELS}),
        ["{folder}/train: sentiments.txt and topics.txt may all be labels; data.train = "
         '{{ text = "train/sents.txt", label = "train/sentiments.txt" }} names two', *NEITHER,
         "data.validation_fraction = 0.1: selects no rows out of 4"],
    ),
    "names that do not count from 0": (
        Layout("", {"train_text.txt": TEXTS, "train_labels.txt": LABELS,
                    "mapping.txt": "1\tbad\n2\tgood\n"}, CUT),
        ['mapping.txt, beside train_labels.txt: expected a number from 0, a tab and a name per '
         'line, found "1\\tbad" in the first line; correct or remove it'],
    ),
    "a table beside files of classes": (
        Layout("", {"a.csv": FOUR, "neg.txt": "a\n", "pos.txt": "b\n"}),
        [HERE + 'a.csv beside neg.txt: which has the rows? data.train = "a.csv" reads tables, '
         'data.train = {{ neg = "neg.txt", pos = "pos.txt" }} the other files', *NEITHER,
         "data.validation_fraction = 0.1: selects no rows out of 4"],
    ),
    "many tables beside files of classes": (
        Layout("", {**{f"{i}.csv": FOUR for i in range(9)}, "neg.txt": "a\n", "pos.txt": "b\n"}),
        [HERE + '0.csv beside neg.txt: which has the rows? data.train = "*.csv" reads tables, '
         'data.train = {{ neg = "neg.txt", pos = "pos.txt" }} the other files', NEITHER[0]],
    ),
    "a class without a file": (
        Layout("", {"train.pos": "a\n", "train.neg": "b\n", "test.pos": "c\n"}),
        ["{folder}: a file of class neg is missing beside test.pos"],
    ),
    "a file that may be another class": (
        Layout("", {"neg.txt": "a\n", "neu.txt": "b\n", "pos.txt": "c\n", "README.txt": "d"}, CUT),
        ["{folder}: neu.txt beside neg.txt: is it another class? data.train = "
         '{{ neg = "neg.txt", neu = "neu.txt", pos = "pos.txt" }} names the files of classes, or '
         "move it away",
         "neg.txt, neu.txt, pos.txt: column 'label': no class has two rows ('neg', 'neu', 'pos')"],
    ),
    "a file in two splits": (
        Layout("", {"a.csv": FOUR, "test.csv": TWO}, {"train": "*.csv"}),
        ["test.csv is both in the test and in the train split; data.test and data.train name the "
         "files of each"],
    ),
    "a file beside its own archive": (
        Layout("", {"train.csv": FOUR, "train.csv.gz": FOUR, "test.csv": TWO}),
        [HERE + "the train split exists twice, as train.csv and train.csv.gz; keep one, or choose: "
         'data.train = "train.csv"'],
    ),
    "a file beside its shards": (
        Layout("", {**shards(""), "train.parquet": FOUR, "test.csv": TWO}),
        [HERE + "the train split exists twice, as train-*-of-00004.parquet and train.parquet; "
         'keep one, or choose: data.train = "train-*-of-00004.parquet"'],
    ),
    "a file in two classes": (
        Layout("", {"x.txt": TEXTS, "y.txt": TEXTS}, {"train": {"a": "*.txt", "b": "y.txt"}}),
        ["y.txt is twice in the train split, or in two classes; data.train names each file once"],
    ),
    "a file and a link to it": (
        Layout("", {"a.csv": FOUR, "b.csv": lambda path: path.symlink_to("a.csv"), "test.csv": TWO},
               {"train": "?.csv"}),
        ["b.csv is twice in the train split, or in two classes; data.train names each file once"],
    ),
    "a link to nowhere": (
        Layout("", {"train.csv": lambda path: path.symlink_to("far/a.csv"), "test.csv": TWO}),
        ["train.csv: a link to far/a.csv, which does not exist"],
    ),
    "training files that are called by a word": (
        Layout("", {"train_v1.csv": FOUR, "train_v2.csv": FOUR, "test.csv": TWO}),
        ["the dataset has no train split, only test: data.pool_splits = true joins all rows and "
         "splits them by data.validation_fraction and data.test_fraction; not read: train_v1.csv, "
         "train_v2.csv: if it is the training data, data.train names it"],
    ),
    "a pipe": (
        Layout("", {"a.csv": os.mkfifo}, source="a.csv"),
        ["data.source = '{folder}/a.csv': neither a file nor a folder (a pipe or a device): rows "
         "are read more than once; write them to a file"],
    ),
    "a pipe among files": (
        Layout("", {"a.csv": os.mkfifo, "test.csv": TWO}, {"train": "a.csv"}),
        ['data.train = "a.csv": neither a file nor a folder (a pipe or a device): rows are read '
         "more than once; write them to a file"],
    ),
    "an address": (
        Layout("", {"test.csv": TWO}, {"train": "https://a.org/b.csv"}),
        ['data.train = "https://a.org/b.csv": an address: not read; download it, and name the file '
         "or folder"],
    ),
    "other files than README.md says": (
        Layout("", {"README.md": "---\nconfigs:\n- data_files:\n  - {split: train, path: a/*}\n"
                    "  - {split: test, path: b.csv}\n---\n", "a/x.csv": FOUR, "b.csv": TWO}),
        ['{folder}/README.md says data.train = "a/*" and data.test = "b.csv", but by its name '
         "b.csv is train; set these keys"],
    ),
    "folders of tables as classes": (
        Layout("", {**TABLES, "c/1.txt": "c", "c/2.txt": "d"},
               {"train": {"x": "a/", "y": "b", "z": "c"}, **CUT}),
        ["a/1.csv is a table: in a folder of a class, each file would be one text; data.train = "
         '{{ x = "a/*.csv", y = "b/*.csv", z = "c" }} reads the rows of tables'],
    ),
    "these tables, named": (
        Layout("", TABLES, {"train": {"x": "a/*.csv", "y": "b/*.csv"}, **CUT}),
        {"train": 3, "test": 3},
    ),
    "an empty folder as a class": (
        Layout("", {"a/1.txt": "a", "b/.x": "b"}, {"train": {"x": "a", "y": "b"}}),
        ["data.train: b, of class 'y', is empty"],
    ),
    "several files of texts": (
        Layout("", {"x1.txt": TEXTS, "x2.txt": TEXTS, "y.txt": LABELS},
               {"train": {"text": "x*.txt", "label": "y.txt"}, **CUT}),
        ["data.train: text is 2 files, x1.txt, x2.txt; text and label name one file each"],
    ),
    "a folder of labels": (
        Layout("", {"x.txt": TEXTS, "y/y.txt": LABELS},
               {"train": {"text": "x.txt", "label": "y"}, **CUT}),
        ["data.train: label is y, a folder; text and label name one file each"],
    ),
    "a pattern without files": (
        Layout("", {"a.csv": FOUR}, {"train": "x*.csv"}),
        ['data.train = "x*.csv": no such file in {folder}; there are a.csv'],
    ),
    "two names for the training file": (
        Layout("", {"a.csv": FOUR}, {"train": "b.csv"}, source="a.csv"),
        ["data.train: data.source = '{folder}/a.csv' is the training file; leave one of them out"],
    ),
    "a pointer of git-lfs": (
        Layout("", {"train.parquet": LFS, "test.parquet": TWO}),
        ["train.parquet: a pointer of git-lfs, not the file itself: not read; git lfs pull fetches "
         "the file"],
    ),
    "a saved dataset that lacks a file": (
        Layout("", {"state.json": '{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'}),
        ["{folder}: data-00000-of-00001.arrow of this saved dataset is missing"],
    ),
    "a saved dataset that lacks the list of its files": (
        Layout("", {"dataset_dict.json": '{"splits": ["train"]}', "train/state.json": "{}"}),
        ["{folder}/train: no state.json that names the files of this saved dataset"],
    ),
    "state.json of another program beside the tables": (
        Layout("", {"state.json": '{"step": 3}', "train.csv": FOUR, "test.csv": TWO}), SPLIT,
    ),
    "a table with a name that is not UTF-8": (
        Layout("", {f"train-{NOT_UTF8}.csv": FOUR, "test-a.csv": TWO}),
        ["train-caf\ufffd.csv: the name of this file is not UTF-8; rename it"],
    ),
    "a text with such a name": (
        Layout("", {**tree(), f"train/pos/{NOT_UTF8}.txt": "c"}),
        ["pos/caf\ufffd.txt: the name of this file is not UTF-8; rename it"],
    ),
    "a class with such a name": (
        Layout("", {**tree(), f"train/{NOT_UTF8}/c.txt": "c"}),
        ["caf\ufffd/c.txt: the name of this file is not UTF-8; rename it"],
    ),
    "labels with such a name": (
        Layout("", {"train_text.txt": TEXTS, f"train_labels_{NOT_UTF8}.txt": LABELS}),
        ["train_labels_caf\ufffd.txt: the name of this file is not UTF-8; rename it"],
    ),
    "names of classes that are not UTF-8": (
        Layout("", {"train_text.txt": TEXTS, "train_labels.txt": LABELS,
                    "mapping.txt": b"0\tcaf\xe9\n1\tbar\n"}, CUT),
        ["mapping.txt, beside train_labels.txt: not UTF-8 (byte 0xe9); convert it to UTF-8"],
    ),
    "texts in two encodings": (
        Layout("", {**tree(), "train/pos/x.txt": b"caf\xe9", "test/pos/x.txt": b"caf\xe9"},
               {"encoding": "ascii"}),
        ['train/pos/x.txt: not ascii (byte 0xe9, line 1); data.encoding_errors = "replace" reads '
         "U+FFFD for such bytes"],
    ),
    "other columns at the same positions": (
        Layout("", {"train.csv": FOUR, "test.csv": {"label": ["bad"], "text": ["a"]}},
               {"text_position": 0, "label_position": 1}),
        ["test.csv: data.text_position = 0 is 'text' in train.csv and 'label' here, where that is "
         "column 1",
         "test.csv: data.label_position = 1 is 'label' in train.csv and 'text' here, where that is "
         "column 0"],
    ),
    "other names at the same positions": (
        Layout("", {"train.csv": FOUR, "test.csv": {"Text": ["a", "b"], "Label": ["bad", "good"]}},
               {"text_position": 0, "label_position": 1}), SPLIT,
    ),
    "split folders without rows": (
        Layout("", {"train/a.xml": "<a>", "train/b.xml": "<b>", "test/a.xml": "<a>"}),
        ["data.source = '{folder}/train': no table or folder of classes is alone; it contains "
         'a.xml, b.xml; data.train = "train/FILE" names a table, data.train = '
         '{{ text = "train/FILE", label = "train/FILE" }} texts and labels'],
    ),
    "a folder of nothing that may be rows": (
        Layout("", {"a.py": "1", "b.md": "c"}),
        [HERE + "no file is called like a split, and no table or folder of classes is alone; it "
         'contains a.py, b.md; data.train = "a.py" names the training rows'],
    ),
    "the demo dataset and a file": (
        Layout("", {}, {"test": "x.csv"}, source="demo"),
        ['data.test = "x.csv": the demo dataset has its own splits; set data.source, or '
         "data.train, too"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_clear_is_refused_with_the_key_that_decides(tmp_path: Path, name: str):
    layout, expected = REFUSED[name]
    source = layout.make(tmp_path)
    keys = data("demo" if layout.source == "demo" else source, **layout.keys)
    if isinstance(expected, dict):
        splits = open_dataset(keys, 1).splits
        assert {split: len(rows) for split, rows in splits.items()} == expected
    else:
        lines = [line.format(folder=tmp_path) for line in expected]
        assert mistakes(lambda: open_dataset(keys, 1).splits) == lines


COLA = [("gj04", n % 2, "*" * (n % 2), f"text {n}, so it is") for n in range(12)]
MATCHED = {"in_domain_train.tsv": COLA, "in_domain_dev.tsv": COLA[:4],
           "out_of_domain_dev.tsv": COLA[:6]}  # fmt: skip
TREC = "".join(f"{('DESC', 'HUM')[n % 2]}:x text {n} ?\n" for n in range(12))
SMS = "".join(f"{('ham', 'spam')[n % 2]}\ttext {n} so it is\n" for n in range(20))
MARKED = {"text": ["a film", "b film"], "label": ["neg", "pos"]}
BARE = [f"{chr(97 + n)}ot text so\n" for n in range(20)]


def cola(place: str) -> dict[str, str]:
    return {
        f"{place}/{name}": "".join("{}\t{}\t{}\t{}\n".format(*row) for row in rows)
        for name, rows in MATCHED.items()
    }


# Where only the user can know: each command that is shown, and the rows of each split that it reads
WAYS: dict[str, tuple[Layout, list[tuple[str, dict[str, int]]]]] = {
    "CoLA, as published": (
        Layout("", {**cola("raw"), **cola("tokenized"), "README": "about"}),
        [("data.source={folder}/raw data.validation=in_domain_dev.tsv",
          {"train": 12, "validation": 4}),
         ("data.source={folder}/tokenized data.validation=in_domain_dev.tsv",
          {"train": 12, "validation": 4}),
         ("data.source={folder}/raw data.validation=out_of_domain_dev.tsv",
          {"train": 12, "validation": 6}),
         ("data.header=true", {"train": 11, "validation": 3})],
    ),
    "MNLI": (
        Layout("", {"train.tsv": FOUR, "dev_matched.tsv": TWO, "dev_mismatched.tsv": FOUR,
                    "test_matched.tsv": {"text": ["x"]}, "test_mismatched.tsv": {"text": ["x"]}}),
        [("data.validation=dev_matched.tsv data.test=test_matched.tsv",
          {"train": 4, "validation": 2}),
         ("data.validation=dev_mismatched.tsv data.test=test_mismatched.tsv",
          {"train": 4, "validation": 4})],
    ),
    "TREC": (
        Layout("", {"train_5500.label": TREC, "TREC_10.label": TREC[:200]}),
        [("data.train=train_5500.label data.format=label_text", {"train": 11, "validation": 1}),
         ("data.test=TREC_10.label", {"train": 11, "validation": 1, "test": 12})],
    ),
    "a file without suffix": (
        Layout("", {"SMSSpamCollection": SMS, "readme": "about"}),
        [("data.train=SMSSpamCollection", {"train": 18, "validation": 2}),
         ("data.header=true", {"train": 17, "validation": 2})],
    ),
    "splits as suffixes": (
        Layout("", {f"stsa.binary.{name}": TREC for name in ("train", "dev", "test")}),
        [("data.format=label_text", {"train": 12, "validation": 12, "test": 12})],
    ),
    "a class each, without suffix": (
        Layout("", {"plot.tok.gt9.5000": "".join(BARE[:10]), "quote.tok.gt9.5000":
                    "".join(BARE[10:]), "subjdata.README.1.0": "about"}),
        [("'data.train={{ plot = \"plot.tok.gt9.5000\", quote = \"quote.tok.gt9.5000\" }}'",
          {"train": 18, "validation": 2})],
    ),
    "several tables without suffix": (
        Layout("", {"a_labelled.txt": SMS, "b_labelled.txt": SMS.replace("\t", "\tso "),
                    "readme.txt": "about"}),
        [("'data.train=[\"a_labelled.txt\", \"b_labelled.txt\"]'", {"train": 36, "validation": 4}),
         ("data.header=true", {"train": 34, "validation": 4})],
    ),
    "versions of a set": (
        Layout("", {"Agree_50.txt": SMS, "Agree_75.txt": "".join(SMS.splitlines(True)[:18])}),
        [("data.train=Agree_50.txt", {"train": 18, "validation": 2}),
         ("data.train=Agree_75.txt", {"train": 16, "validation": 2}),
         ("data.header=true", {"train": 17, "validation": 2})],
    ),
    "a table beside lists of words": (
        Layout("", {"reviews.csv": {name: some * 3 for name, some in FOUR.items()}, **{
            f"{name}-words.txt": "".join(BARE[i * 4 : i * 4 + 4])
            for i, name in enumerate(["negative", "positive"])}}),
        [("data.train=reviews.csv", {"train": 11, "validation": 1}),
         ("'data.train={{ negative = \"negative-words.txt\", positive = "
          "\"positive-words.txt\" }}'", {"train": 7, "validation": 1})],
    ),
    "a table beside texts and labels": (
        Layout("", {"all.csv": {name: some * 3 for name, some in FOUR.items()},
                    "text.txt": "".join(BARE), "labels.txt": LABELS * 5}),
        [("data.train=all.csv", {"train": 11, "validation": 1}),
         ("'data.train={{ text = \"text.txt\", label = \"labels.txt\" }}'",
          {"train": 18, "validation": 2})],
    ),
    "tables beside other files, all called like splits": (
        Layout("", {**{f"train-0000{i}-of-00002.csv": MARKED for i in (0, 1)}, "test.csv": MARKED,
                    "train_pos.txt": TEXTS, "train_neg.txt": "x\n"}),
        [("'data.train=train-*-of-00002.csv' data.test=test.csv", {"train": 4, "test": 2}),
         ("'data.train={{ neg = \"train_neg.txt\", pos = \"train_pos.txt\" }}'",
          {"train": 5, "test": 2})],
    ),
    "tables beside texts and labels, all called like splits": (
        Layout("", {"train.csv": FOUR, "test.csv": TWO,
                    **{f"{split}_{name}.txt": text for split in ("train", "test")
                       for name, text in (("text", TEXTS), ("labels", LABELS))}}),
        [("data.train=train.csv data.test=test.csv", {"train": 4, "test": 2}),
         ("'data.train={{ text = \"train_text.txt\", label = \"train_labels.txt\" }}' "
          "'data.test={{ text = \"test_text.txt\", label = \"test_labels.txt\" }}'",
          {"train": 4, "test": 4})],
    ),
    "another class": (
        Layout("", {f"{name}.txt": "".join(BARE[i * 5 : i * 5 + 5]) for i, name in
                    enumerate(["neg", "neu", "pos", "q"])}),
        [("'data.train={{ neg = \"neg.txt\", neu = \"neu.txt\", pos = \"pos.txt\", q = "
          "\"q.txt\" }}'", {"train": 18, "validation": 2})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAYS)
def test_the_commands_that_an_error_shows_read_the_dataset(tmp_path: Path, monkeypatch, name: str):
    layout, expected = WAYS[name]
    monkeypatch.setattr("sys.argv", ["train", str(layout.make(tmp_path))])
    with pytest.raises(UserError) as error:
        open_dataset(data(tmp_path), 1).splits.keys()
    commands = repaired_commands(error.value)
    assert len(commands) == len(expected), commands
    for command, (keys, counts) in zip(commands, expected, strict=True):
        assert keys.format(folder=tmp_path) in command
        words = [word for word in shlex.split(command) if word.startswith("data.")]
        job = load_job(
            None, words if "data.source=" in command else [f"data.source={tmp_path}", *words]
        )
        splits = open_dataset(job.data, 1).splits
        assert {split: len(rows) for split, rows in splits.items()} == counts, command


DIALOGUE = "Hi , you . __eou__ Go on . __eou__ No . __eou__\n"
DIALOGUES = {
    f"{split}/dialogues_{kind}{split}.txt": text * n
    for split, n in (("train", 3), ("validation", 1))
    for kind, text in (("", DIALOGUE), ("act_", "1 3 2 \n"), ("emotion_", "0 0 4 \n"))
}
ANNOTATED = {"file_id": [f"f_{n}" for n in range(40)], "label": ["no", "hate"] * 20}
CONVERTED: dict[str, tuple[Layout, str, dict[str, tuple[int, str]]]] = {
    "dialogues": (
        Layout("", DIALOGUES),
        "each line of train/dialogues_train.txt is several texts, which __eou__ ends, with a label "
        "for each in train/dialogues_act_train.txt or train/dialogues_emotion_train.txt: not read;",
        {"train": (9, "Hi , you ."), "validation": (3, "Hi , you .")},
    ),
    "texts that a table names": (
        Layout("", {"annotations.csv": ANNOTATED,
                    **{f"sampled_train/f_{n}.txt": f"text {n}\n, yes" for n in range(24)},
                    **{f"sampled_test/f_{n}.txt": f"text {n}" for n in range(24, 40)},
                    **{f"all_files/f_{n}.txt": f"text {n}" for n in range(40)}}),
        "column 'file_id' of annotations.csv names files of sampled_test, sampled_train, which are "
        "a text each: not read;",
        {"train": (24, "text 0\n, yes"), "test": (16, "text 24")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVERTED)
def test_the_command_that_converts_a_layout(tmp_path: Path, monkeypatch, name: str):
    layout, expected, rows = CONVERTED[name]
    (line,) = mistakes(lambda: open_dataset(data(layout.make(tmp_path)), 1))
    assert expected in line
    words = shlex.split(line.partition(": not read; (")[2].partition(") writes ")[0])
    assert words[:3] == ["cd", str(tmp_path), "&&"]
    monkeypatch.chdir(tmp_path)
    exec(words[-1], {})
    dataset = open_dataset(data(tmp_path), 1)
    assert {s: (len(x), x.texts(slice(1))[0]) for s, x in dataset.splits.items()} == rows


def test_texts_beside_a_table_that_has_them_too(tmp_path: Path):
    files = {"all.csv": {"id": [f"f_{n}" for n in range(12)], **reviews(12)},
             **{f"texts/f_{n}.txt": "text" for n in range(12)}}  # fmt: skip
    assert len(open_dataset(data(Layout("", files).make(tmp_path), **CUT), 1).splits["train"]) == 6


def test_a_test_file_with_another_header(tmp_path: Path):
    """CoLA in GLUE: only test.tsv has a header, and no label."""
    files = {f"{name}.tsv": cola("x")["x/in_domain_dev.tsv"] for name in ("train", "dev")}
    unlabeled = "index\tsentence\n" + "".join(f"{n}\ttext {n} is so\n" for n in range(12))
    path = Layout("", {**files, "test.tsv": unlabeled}).make(tmp_path)
    keys = data(path, names=("source", "label", "mark", "text"))
    dataset = open_dataset(keys, 1)
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 4, "validation": 4,
    }  # fmt: skip
    assert dataset.find_warnings()[0] == (
        "test: not used, test.tsv has another header (index, sentence) and no label"
    )
    assert mistakes(lambda: open_dataset(keys, 1, only="test").splits)[0].endswith(
        "the test split has no labels to score it by; predict labels it"
    )
    # One of its columns may be the label
    rows = "".join(f"{n}\t{n % 2}\ttext {n} is so\n" for n in range(12))
    (path / "test.tsv").write_text(f"index\ty\tsentence\n{rows}", encoding="utf-8")
    (line,) = mistakes(lambda: open_dataset(keys, 1).splits)
    assert line.startswith("test.tsv: data.names has 4 names")


def test_a_column_that_says_the_split_is_not_overlooked(tmp_path: Path):
    fine = {name: [x for x, part in zip(values, MIXED["partition"], strict=True) if part]
            for name, values in MIXED.items()}  # fmt: skip
    path = write(tmp_path / "de.csv", fine)
    with pytest.raises(UserError) as error:
        open_dataset(data(path), 1).splits.keys()
    assert error.value.lines == (
        "de.csv: column 'partition' says which split a row is of (train: 4, test: 1, Test: 1): "
        'data.split_column = "partition" uses it, data.pool_splits = true splits all rows again',
    )
    assert error.value.fix == {"data.split_column": "partition"}
    assert error.value.others == [{"data.pool_splits": True, "data.validation_fraction": 0.1}]
    pooled = open_dataset(data(path, pool_splits=True, validation_fraction=0.5), 1).splits
    assert {name: len(split) for name, split in pooled.items()} == {"train": 3, "validation": 3}
    # Of these columns none says it beyond doubt
    for values in (["train"] * 6, ["train", "test"] * 2 + ["bus"] * 2, ["test", "dev"] * 3):
        write(path, {**fine, "partition": values})
        assert len(open_dataset(data(path, **CUT), 1).splits["train"]) == 3


def test_rows_of_a_split_keep_their_numbers(tmp_path: Path):
    for suffix in ("csv", "parquet"):
        path = write(tmp_path / f"de.{suffix}", MIXED)
        found = open_dataset(data(path, split_column="partition"), 1)
        assert found.splits["test"].origin(1) == f"de.{suffix}, row 6"
        assert found.notes == (f"de.{suffix}: not read: 1 row with '' in column 'partition'",)
    rows = [dict(zip(MIXED, row, strict=True)) for row in zip(*MIXED.values(), strict=True)]
    lines = [json.dumps({k: x for k, x in row.items() if x or k != "partition"}) for row in rows]
    (tmp_path / "de.jsonl").write_text("\n".join(lines))  # a row without the key
    found = open_dataset(data(tmp_path / "de.jsonl", split_column="partition"), 1)
    assert found.splits["test"].origin(1) == "de.jsonl, row 6"
    assert found.notes == ("de.jsonl: not read: 1 row with '' in column 'partition'",)
    assert mistakes(lambda: open_dataset(data(path, split_column="part"), 1)) == [
        'data.split_column = "part": no such column in de.parquet; there are partition, text, label'
    ]
    assert mistakes(lambda: open_dataset(data(path, split_column="label"), 1)) == [
        'data.split_column = "label": de.parquet: no value is a split (bad, good, x)'
    ]


def test_a_split_that_is_named_does_not_hide_the_others(tmp_path: Path):
    make = Layout("", {**cola("x/raw"), **cola("x/other")}).make
    keys = {"names": ("source", "label", "mark", "text"), "validation": "x/raw/in_domain_dev.tsv"}
    found = open_dataset(data(make(tmp_path), **keys), 1)
    assert found.splits["train"].origin(0) == "x/raw/in_domain_train.tsv, row 1"
    assert found.notes == ("not read: x/raw/out_of_domain_dev.tsv",)
    two = {f"z/{name}.txt": LABELS for name in ("topics", "sentiments")}
    Layout("", {"y/a.csv": FOUR, "y/b.csv": TWO, "z/sents.txt": TEXTS, **two}).make(tmp_path)
    elsewhere = data(tmp_path / "y", train=str(tmp_path / "z"), test="b.csv")
    assert (
        "sentiments.txt and topics.txt may all be labels"
        in (mistakes(lambda: open_dataset(elsewhere, 1))[0])
    )
    assert rows_of(open_dataset(data(tmp_path / "y", test="b.csv"), 1)) == ROWS
    assert rows_of(open_dataset(data(tmp_path / "y", test="b.csv"), 1, "test")) == {
        "test": ROWS["test"]
    }


def test_files_that_are_not_read_are_named(tmp_path: Path):
    files = {"train.csv": FOUR, "test.csv": TWO, "sample_submission.csv": TWO, "x.json": TWO}
    assert open_dataset(data(Layout("", files).make(tmp_path)), 1).notes == (
        "not read: sample_submission.csv, x.json",
    )


def test_tables_that_are_not_read_beside_files_of_classes_are_named(tmp_path: Path):
    files = {"train.neg": "a\n", "train.pos": "b\n", "test.neg": "c\n", "test.pos": "d\n"}
    made = Layout("", {**files, "lengths.csv": TWO}).make(tmp_path)
    assert open_dataset(data(made), 1).notes == ("not read: lengths.csv",)


def test_other_splits_of_a_saved_dataset_are_named(tmp_path: Path):
    from datasets import Dataset, DatasetDict

    made = {name: Dataset.from_dict(dict(FOUR)) for name in ("train", "test", "holdout")}
    DatasetDict(made).save_to_disk(tmp_path)
    assert open_dataset(data(tmp_path), 1).notes == ("not read: holdout",)
    keys = {"train": "holdout", "test": "test"}
    assert open_dataset(data(tmp_path, **keys), 1).notes == ()


def test_files_without_a_folder_lie_in_the_current_one(tmp_path: Path, monkeypatch):
    Layout("", {"in/a.csv": FOUR, "b.csv": TWO}).make(tmp_path)
    monkeypatch.chdir(tmp_path)
    for source, keys in (("demo", {"train": "in/*.csv"}), ("in/a.csv", {})):
        dataset = open_dataset(data(source, test="b.csv", **keys), 1)
        assert rows_of(dataset) == ROWS
        assert dataset.splits["test"].origin(0) == "b.csv, row 1"


def test_splits_of_the_hub_under_other_names(own_cache: Path):  # noqa: F811
    labels = {"train": [0, 1], "validation_matched": [0, 1], "validation_mismatched": [1]}
    hub_cache(own_cache, "some/mnli", "default", labels, ["no", "yes"])
    chosen = open_dataset(data("some/mnli", validation="validation_matched"), 1)
    assert {split: len(rows) for split, rows in chosen.splits.items()} == {
        "train": 2, "validation": 2,
    }  # fmt: skip
    assert mistakes(lambda: open_dataset(data("some/mnli", validation="matched"), 1).splits) == [
        'data.validation = "matched": the splits are train, validation_matched, '
        "validation_mismatched; data.validation names one"
    ]


def test_more_shards_than_files_that_may_be_open(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("distsent.data.files.MOST_OPEN", 2)
    files = {f"train-0000{i}-of-00005.csv": TWO for i in range(5)}
    dataset = open_dataset(data(Layout("", {**files, "test.csv": TWO}).make(tmp_path)), 1)
    assert rows_of(dataset)["train"] == ROWS["test"] * 5
    assert lines_of(dataset.read_as) == [
        "read train-00000-of-00005.csv and 5 more files as csv, delimiter ',', 12 rows"
    ]


def test_the_readme_of_a_hub_folder_names_files_with_unclear_names(tmp_path: Path):
    for name, rows in (("part/a", 30), ("part/b", 10), ("de/c", 5)):
        write(tmp_path / f"{name}.csv", reviews(rows))
    config = "- config_name: {}\n  data_files:\n  - split: train\n    path: {}\n"
    test = "  - split: test\n    path: part/b.csv\n"
    text = config.format("en", "part/a.csv") + test + config.format("de", "de/*")
    (tmp_path / "README.md").write_text(f"---\nlicense: mit\nconfigs:\n{text}---\n# Reviews\n")
    with pytest.raises(UserError, match=r'data\.train = "part/a\.csv" and data\.test = ') as error:
        open_dataset(data(tmp_path), 1)
    assert error.value.lines[-1].endswith('README.md: data.train = "de/*" are other files')
    keys = {key.removeprefix("data."): value for key, value in error.value.fix.items()}
    splits = open_dataset(data(tmp_path, **keys), 1).splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 30, "test": 10}
    for broken in ("---\nconfigs: [\n---\n", "---\nconfigs: 3\n---\n", "---", "\xff"):
        (tmp_path / "README.md").write_text(broken, encoding="latin-1")
        with pytest.raises(UserError, match=r"which|several|no file"):
            open_dataset(data(tmp_path), 1)


SAID = ("train.csv", "'**/train*'", "[train.csv]", "/etc/passwd", "../x.csv", "5", "absent.csv")


@pytest.mark.parametrize("train", SAID)
def test_a_readme_that_contradicts_no_name(tmp_path: Path, train: str):
    text = f"---\nconfigs:\n- data_files:\n  - {{split: train, path: {train}}}\n---\n"
    files = {"README.md": text, "train.csv": FOUR, "test.csv": TWO}
    assert open_dataset(data(Layout("", files).make(tmp_path)), 1).notes == ()


def test_a_readme_that_contradicts_a_split_that_is_not_needed(tmp_path: Path):
    text = "---\nconfigs:\n- data_files:\n  - {split: train, path: a.csv}\n"
    text += "  - {split: test, path: test.csv}\n---\n"
    source = Layout("", {"README.md": text, "a.csv": FOUR, "test.csv": TWO}).make(tmp_path)
    assert len(open_dataset(data(source), 1, "test").splits["test"]) == 2
    (line, *_) = mistakes(lambda: open_dataset(data(source), 1))
    assert 'README.md says data.train = "a.csv" and data.test = "test.csv"' in line


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_texts_and_labels_in_two_tables_are_joined(tmp_path: Path, suffix: str) -> None:
    rows = {"id": [f"{i:03}" for i in range(20)]}
    write(tmp_path / f"instances{suffix}", rows | {"text": [sentence(i) for i in range(20)]})
    write(tmp_path / f"truth{suffix}", rows | {"label": ["ab"[i % 2] for i in range(20)]})
    (line,) = mistakes(lambda: open_dataset(data(tmp_path), 1))
    assert "hold the texts and the labels of the same rows, by 'id': not read; (cd " in line
    command = line.partition("not read; ")[2].partition(" writes joined.jsonl")[0]
    subprocess.run(["bash", "-c", command], check=True, timeout=60)
    joined = [*map(json.loads, (tmp_path / "joined.jsonl").read_text().splitlines())]
    assert joined == [
        {"id": f"{i:03}", "text": sentence(i), "label": "ab"[i % 2]} for i in range(20)
    ]
