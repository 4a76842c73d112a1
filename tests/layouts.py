"""Made-up datasets in every layout that public datasets come in: their files, keys and rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tests.dataset_files import Columns, write

Content = Columns | str | bytes
FOUR = {"text": ["a film", "b film", "c film", "d film"], "label": ["bad", "good", "bad", "good"]}
TWO = {"text": ["e film", "f film"], "label": ["good", "bad"]}
TEXTS, LABELS = "a\nb\nc\nd\n", "1\n0\n1\n0\n"


class Layout(NamedTuple):
    """A layout. `rows`: (text, class name) of each split, in order; none: those of `ROWS`."""

    what: str  # for docs/data.md
    files: Mapping[str, Content | Callable[[Path], None]]
    keys: Mapping[str, Any] = {}
    rows: Mapping[str, list[tuple[str, str]]] | None = None
    source: str = ""  # inside the folder

    def make(self, folder: Path) -> Path:
        """Write the files; returns what data.source names."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content, encoding="utf-8", newline="")
            elif isinstance(content, bytes):
                path.write_bytes(content)
            elif callable(content):
                content(path)
            else:
                write(path, content)
        return folder / self.source


def pairs(columns: Columns) -> list[tuple[str, str]]:
    return [(text, str(label)) for text, label in zip(*columns.values(), strict=True)]


ROWS = {"train": pairs(FOUR), "test": pairs(TWO)}
CUT = {"test_fraction": 0.5}  # a dataset of training rows needs something to score
CLASSED = {
    "train": [("a\n", "neg"), ("b\n", "neg"), ("c\n", "pos"), ("d\n", "pos")],
    "test": [("e\n", "neg"), ("f\n", "pos")],
}


def saved(name: str) -> Callable[[Path], None]:
    """datasets' save_to_disk, of a DatasetDict or one Dataset."""

    def save(path: Path) -> None:
        from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

        features = Features({"text": Value("string"), "label": ClassLabel(names=["bad", "good"])})
        some = {"train": FOUR, "test": TWO}
        made = {split: Dataset.from_dict(dict(rows), features) for split, rows in some.items()}
        if name == "dict":
            DatasetDict(made).save_to_disk(path, num_shards={"train": 2, "test": 1})
        else:
            Dataset.from_dict(dict(FOUR), features).save_to_disk(path)

    return save


def shards(folder: str, split: str = "train", **tags: str) -> dict[str, Content]:
    """A split in shards of a row each."""
    return {
        f"{folder}{split}-{i:05d}-of-00004{tags.get('tag', '')}.parquet": {
            name: [values[i]] for name, values in FOUR.items()
        }
        for i in range(4)
    }


def tree(top: str = "", suffix: str = ".txt", **more: str) -> dict[str, Content]:
    """A folder for each class, in folders for the splits."""
    where = {"a": "train/neg", "b": "train/neg", "c": "train/pos", "d": "train/pos"}
    where |= {"e": "test/neg", "f": "test/pos"}
    return {f"{top}{folder}/{text}_1{suffix}": f"{text}\n" for text, folder in where.items()}


LINES = {
    "train": [("a film", "neg"), ("b film", "neg"), ("c film", "pos")],
    "test": [("d film", "neg"), ("e film", "pos")],
}
NUMBERED = {
    "train": [("a", "good"), ("b", "bad"), ("c", "good"), ("d", "bad")],
    "test": [("e", "bad"), ("f", "good")],
}
JSON_SPLITS = json.dumps({"train": pairs(FOUR), "test": pairs(TWO), "more": [["x", "bad"]]})
MIXED = {
    "partition": ["train", "test", "train", "train", None, "Test", "train"],
    **{name: [FOUR[name][0], TWO[name][0], *FOUR[name][1:3], "x", TWO[name][1], FOUR[name][3]]
       for name in FOUR},
}  # fmt: skip
PLACES = {"text_position": 0, "label_position": 1}
LAYOUTS = {
    "file": Layout("a file of training rows", {"all.csv": FOUR}, CUT, source="all.csv"),
    "file per split": Layout("a file per split", {"train.csv": FOUR, "test.csv": TWO}),
    "three names": Layout(
        "a file per split under other usual names",
        {"training.jsonl": FOUR, "dev.jsonl": TWO, "eval.jsonl": TWO},
        rows={**ROWS, "validation": pairs(TWO)},
    ),
    "different formats": Layout("formats may differ", {"train.csv": FOUR, "test.parquet": TWO}),
    "words in names": Layout(
        "a word in the name, where one file has it",
        {"Corona_NLP_train.csv": FOUR, "Corona_NLP_test.csv": TWO, "README.md": "about"},
    ),
    "versions in names": Layout(
        "the same, with a version",
        {"olid-training-v1.0.tsv": FOUR, "olid-test-v1.0.tsv": TWO},
    ),
    "camel case": Layout("the same, in one word", {"myTrainData.tsv": FOUR, "myTestData.tsv": TWO}),
    "shards": Layout("shards as on the hub", {**shards("data/"), "data/test.parquet": TWO}),
    "hashed shards": Layout(
        "shards of older uploads",
        {**shards("data/", tag="-6d4b0e0fbd4e7bdf"), "data/test.parquet": TWO},
    ),
    **{
        f"a column of splits, {suffix}": Layout(
            "one file, and a column that says the split of each row (MASSIVE)",
            {f"de.{suffix}": MIXED},
            {"split_column": "partition"},
            source=f"de.{suffix}",
        )
        for suffix in ("csv", "jsonl", "parquet")
    },
    "a column of splits beside a file": Layout(
        "... and a file of its own for another split",
        {"all.csv": MIXED, "dev.csv": TWO},
        {"split_column": "partition", "train": "all.csv"},
        rows={**ROWS, "validation": pairs(TWO)},
    ),
    "one configuration": Layout(
        "a folder of one configuration", {**shards("sst2/"), "sst2/test.parquet": TWO}
    ),
    "folder per split": Layout(
        "a folder per split with a file", {"train/part-0.csv": FOUR, "test/part-0.csv": TWO}
    ),
    "one table": Layout(
        "a folder with one table",
        {"IMDB.csv": FOUR, "sampleSubmission.csv": TWO, "requirements.txt": "pandas"},
        CUT,
    ),
    "save_to_disk": Layout(
        "a DatasetDict's save_to_disk", {"saved": saved("dict")}, source="saved"
    ),
    "save_to_disk of one": Layout(
        "a Dataset's save_to_disk", {"saved": saved("one")}, CUT, source="saved"
    ),
    "splits as keys": Layout(
        "a JSON file with the splits as keys (CLINC150)",
        {"all.json": JSON_SPLITS},
        PLACES,
        source="all.json",
    ),
    "splits as keys, named": Layout(
        "the same, with other names, in a folder",
        {"all.json": JSON_SPLITS.replace('"test"', '"oos"')},
        {"test": "oos", **PLACES},
        source="all.json",
    ),
    "aclImdb": Layout(
        "the aclImdb tree",
        {**tree("aclImdb/"), "aclImdb/train/unsup/0_0.txt": "x", "aclImdb/train/urls_pos.txt": "u",
         "aclImdb/train/urls_neg.txt": "u"},
        rows=CLASSED,
    ),
    "folder per class": Layout(
        "a folder per class with a file per text",
        tree("20news-bydate-", suffix=""),
        rows=CLASSED,
    ),
    "class folders alone": Layout(
        "a folder per class, not split",
        {"review_polarity/txt_sentoken/neg/cv000_1.txt": "a\r\nb", "README": "x",
         "review_polarity/txt_sentoken/neg/LICENSE.txt": "about",
         "review_polarity/txt_sentoken/neg/cv001_2.txt": "c",
         "review_polarity/txt_sentoken/pos/cv000_3.txt": "d",
         "review_polarity/txt_sentoken/pos/cv001_4.txt": "e"},
        CUT,
        {"train": [("a\nb", "neg"), ("c", "neg"), ("d", "pos"), ("e", "pos")]},
    ),
    "file per class": Layout(
        "a file per class with a text per line",
        {"rt-polarity.neg": "a film\nb film\n", "rt-polarity.pos": "c film\nd film\n",
         "rt-polaritydata.README.1.0.txt": "about"},
        CUT,
        {"train": [("a film", "neg"), ("b film", "neg"), ("c film", "pos"), ("d film", "pos")]},
    ),
    "file per class, named beside another": Layout(
        "the same, with the class of each file given",
        {"neg.txt": "a film\nb film\n", "neu.txt": "c film\nd film\n", "pos.txt": "e film\n"},
        {"train": {"neg": "neg.txt", "neu": "neu.txt"}, **CUT},
        {"train": [("a film", "neg"), ("b film", "neg"), ("c film", "neu"), ("d film", "neu")]},
    ),
    "file per class and split": Layout(
        "the same for each split",
        {"train/neg.txt": "a film\nb film\n", "train/pos.txt": "c film\n",
         "test/neg.txt": "d film\n", "test/pos.txt": "e film\n"},
        rows=LINES,
    ),
    "class and split in the name": Layout(
        "the same in one folder",
        {"train.neg": "a film\nb film\n", "train.pos": "c film\n",
         "test.neg": "d film\n", "test.pos": "e film\n"},
        rows=LINES,
    ),
    "parallel files": Layout(
        "texts and labels in two files (TweetEval)",
        {"train_text.txt": TEXTS, "train_labels.txt": LABELS, "test_text.txt": "e\nf\n",
         "test_labels.txt": "0\n1\n", "mapping.txt": "0\tbad\n1\tgood\n"},
        rows=NUMBERED,
    ),
    "parallel folders": Layout(
        "texts and labels in two files of a folder",
        {"train/sents.txt": TEXTS, "train/sentiments.txt": "good\nbad\ngood\nbad\n",
         "test/sents.txt": "e\nf\n", "test/sentiments.txt": "bad\ngood\n"},
        rows=NUMBERED,
    ),
    "intents and slots": Layout(
        "the same, as JointBERT has them",
        {f"{split}/{name}": text for split, texts, labels in (
            ("train", TEXTS, "good\nbad\ngood\nbad\n"), ("test", "e\nf\n", "bad\ngood\n"))
         for name, text in (("seq.in", texts), ("label", labels), ("seq.out", texts))}
        | {"intent_label.txt": "UNK\n", "slot_label.txt": "UNK\n"},
        rows=NUMBERED,
    ),
    "splits without suffixes": Layout(
        "files without a suffix",
        {"train": "bad a film\ngood b film\nbad c film\ngood d film\n",
         "test": "good e film\nbad f film\n", "README": "about"},
        {"format": "label_text"},
    ),
    "named files": Layout(
        "files of any name",
        {"a.csv": FOUR, "b.csv": TWO, "c.csv": TWO},
        {"train": "a.csv", "test": "b.csv"},
    ),
    "named patterns": Layout(
        "several files and patterns",
        {"in/a1.csv": {k: v[:2] for k, v in FOUR.items()}, "out/b.csv": TWO,
         "in/a2.csv": {k: v[2:] for k, v in FOUR.items()}},
        {"train": ("in/a*.csv",), "test": "out"},
    ),
    "named classes": Layout(
        "a table for each class",
        {"True.csv": {"text": ["a", "b"]}, "Fake.csv": {"text": ["c", "d"]}},
        {"train": {"fake": "Fake.csv", "true": "True.csv"}, **CUT},
        {"train": [("c", "fake"), ("d", "fake"), ("a", "true"), ("b", "true")]},
    ),
    "named class folders": Layout(
        "a folder of texts for each class",
        {"h/1.txt": "a", "h/2.txt": "b", "s/1.txt": "c", "s/2.txt": "d"},
        {"train": {"ham": "h", "spam": "s"}, **CUT},
        {"train": [("a", "ham"), ("b", "ham"), ("c", "spam"), ("d", "spam")]},
    ),
    "named parallel files": Layout(
        "texts and labels in two files of any name",
        {"in.txt": TEXTS, "out.txt": LABELS},
        {"train": {"text": "in.txt", "label": "out.txt"}, **CUT},
        {"train": [("a", "1"), ("b", "0"), ("c", "1"), ("d", "0")]},
    ),
    "without test labels": Layout(
        "a competition: a test file without labels",
        {"train.csv": {"id": [1, 2, 3, 4], **FOUR}, "test.csv": {"id": [5], "text": ["x"]}},
        CUT,
        {"train": pairs(FOUR)},
    ),
}  # fmt: skip
