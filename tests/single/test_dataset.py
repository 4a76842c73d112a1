"""Reading datasets: equal rows from every format, names for classes, reproducible splits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.data.dataset import TextDataset, open_dataset
from distsent.data.rows import take_values
from tests.dataset_files import data, folder, mistakes, own_cache, reviews, write  # noqa: F401

pytestmark = pytest.mark.usefixtures("own_cache")

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
LACK = "no file is called like a split, and no table or folder of classes is alone; it contains "
NASTY = [
    'a "quoted" text',
    "commas, and, more",
    "two\nlines",
    "tab\there",
    "umlaut ü, emoji 🙂",
    " space ",
    "NA",
    "null",
    "1",
]


def read(dataset: TextDataset) -> dict[str, tuple[list[str], list[int]]]:
    return {
        name: (split.texts(slice(None)), split.labels.tolist())
        for name, split in dataset.splits.items()
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows_whatever_the_texts_and_the_path(
    tmp_path: Path, suffix: str
):
    path = tmp_path / 'it\'s [a] "täst" * {x}?'
    columns = {
        "label": [i % 2 for i in range(len(NASTY))],
        "text": NASTY,
        "other": list(range(len(NASTY))),
    }
    folder(path, suffix, train=columns, validation=reviews(4), test=reviews(3, 10))
    dataset = open_dataset(data(path), 1)
    assert read(dataset) == {
        "train": (NASTY, columns["label"]),
        "validation": (reviews(4)["text"], [0, 1, 0, 1]),
        "test": (reviews(3, 10)["text"], [0, 1, 0]),
    }
    assert dataset.label_names == ("0", "1")
    assert dataset.splits["test"].origin(2) == f"test{suffix}, row 3"


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev", "Dev"])
def test_the_validation_split_has_many_names(tmp_path: Path, name: str):
    dataset = open_dataset(
        data(folder(tmp_path / "x", ".csv", train=reviews(4), **{name: reviews(2)})), 1
    )
    assert [*dataset.splits] == ["train", "validation"]


def test_shards_and_a_data_folder_as_on_the_hub(tmp_path: Path):
    for i in range(3):
        write(tmp_path / "data" / f"train-{i:05d}-of-00003.parquet", reviews(4, 4 * i))
    write(tmp_path / "data" / "test-00000-of-00001.parquet", reviews(2, 50))
    write(tmp_path / "data" / "unsupervised-00000-of-00001.parquet", {"text": ["x"], "label": [-1]})
    dataset = open_dataset(data(tmp_path), 1)
    assert read(dataset)["train"] == (reviews(12)["text"], [0, 1] * 6)
    assert dataset.splits["train"].origin(5) == "train-00001-of-00003.parquet, row 2"
    assert [*dataset.splits] == ["train", "test"]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_csv_with_the_delimiters_of_other_countries_and_a_byte_order_mark(
    tmp_path: Path, mark: str
):
    path = tmp_path / "train.csv"
    path.write_text(f'\ufefftext{mark}label\n"a{mark} b, c"{mark}1\n\nd{mark}0\n', encoding="utf-8")
    write(tmp_path / "test.csv", reviews(2))
    assert read(open_dataset(data(tmp_path), 1))["train"] == ([f"a{mark} b, c", "d"], [1, 0])


def test_texts_beyond_every_buffer(tmp_path: Path):
    columns = {"text": ["x" * 3_000_000, "y"], "label": [0, 1]}
    for suffix in (".csv", ".jsonl"):
        dataset = open_dataset(
            data(folder(tmp_path / suffix, suffix, train=columns, test=reviews(2))), 1
        )
        assert read(dataset)["train"] == (columns["text"], [0, 1])


def tree(path: Path) -> Path:
    for split in ("train", "test"):
        for label in ("neg", "pos"):
            for i in range(3):
                file = path / split / label / f"{i}_{7 if label == 'pos' else 2}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{split} {label} {i} ü", encoding="utf-8")
    (path / "train" / "unsup").mkdir()
    (path / "train" / "unsup" / "0_0.txt").write_text("nobody has read this")
    return path


def test_the_imdb_tree_without_its_unlabeled_reviews(tmp_path: Path):
    tree(tmp_path / "aclImdb")
    for path in (tmp_path / "aclImdb", tmp_path):
        dataset = open_dataset(data(path), 1)
        assert dataset.label_names == ("neg", "pos")
        texts, labels = read(dataset)["train"]
        assert texts == [f"train {label} {i} ü" for label in ("neg", "pos") for i in range(3)]
        assert labels == [0, 0, 0, 1, 1, 1]
        assert dataset.splits["test"].origin(4) == "test/pos/1_7.txt"


@pytest.mark.parametrize(
    ("values", "names", "labels"),
    [
        ([0, 1, 2, 0], ("0", "1", "2"), [0, 1, 2, 0]),
        ([1, 5, 10, 5], ("1", "5", "10"), [0, 1, 2, 1]),
        ([0.0, 4.0, 0.0, 4.0], ("0", "4"), [0, 1, 0, 1]),
        (["neg", "pos", "pos", "neg"], ("neg", "pos"), [0, 1, 1, 0]),
        ([True, False, False, True], ("false", "true"), [1, 0, 0, 1]),
        (["10", "9", "9", "10"], ("9", "10"), [1, 0, 0, 1]),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_labels_may_be_numbers_words_or_truth_values(
    tmp_path: Path, suffix: str, values, names, labels
):
    columns = {"text": ["a", "b", "c", "d"], "label": values}
    dataset = open_dataset(data(folder(tmp_path / "x", suffix, train=columns, test=columns)), 1)
    assert dataset.label_names == names
    assert dataset.splits["train"].labels.tolist() == labels


@pytest.mark.parametrize(
    ("values", "wanted", "labels"),
    [
        ([0, 1, 1, 0], ("bad", "good"), [0, 1, 1, 0]),
        (["good", "bad", "good", "bad"], ("good", "bad"), [0, 1, 0, 1]),
        ([1, -1, 1, -1], ("-1", "1"), [1, 0, 1, 0]),
        ([3, 1, 2, 3], ("1", "2", "3"), [2, 0, 1, 2]),
    ],
)
def test_the_job_may_name_the_classes_by_number_or_put_them_in_order(
    tmp_path: Path, values, wanted, labels
):
    columns = {"text": ["a", "b", "c", "d"], "label": values}
    dataset = open_dataset(
        data(folder(tmp_path / "x", train=columns, test=columns), labels=wanted), 1
    )
    assert dataset.label_names == wanted
    assert dataset.splits["train"].labels.tolist() == labels


def classed(path: Path, names: list[str], values: list[int]) -> None:
    from datasets import ClassLabel, Dataset, Features, Value

    path.parent.mkdir(parents=True, exist_ok=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
    rows = {"text": [f"text {i}" for i in range(len(values))], "label": values}
    Dataset.from_dict(rows, features=features).to_parquet(str(path))


def test_names_that_a_parquet_file_carries(tmp_path: Path):
    classed(tmp_path / "train.parquet", ["neg", "pos"], [1, 0, 1])
    classed(tmp_path / "test.parquet", ["neg", "pos"], [1, 0])
    for wanted, names, labels in (
        (None, ("neg", "pos"), [1, 0, 1]),
        (("pos", "neg"), ("pos", "neg"), [0, 1, 0]),
        (("bad", "good"), ("bad", "good"), [1, 0, 1]),
    ):
        dataset = open_dataset(data(tmp_path, labels=wanted), 1)
        assert (dataset.label_names, dataset.splits["train"].labels.tolist()) == (names, labels)
    assert mistakes(lambda: open_dataset(data(tmp_path, labels=("a", "b", "c")), 1).splits) == [
        "train.parquet, test.parquet: column 'label': data.labels = a, b, c: the classes are neg, "
        "pos"
    ]
    table = parquet.read_table(tmp_path / "test.parquet")
    (tmp_path / "words").mkdir()
    words = table.set_column(1, "label", [["c", "b"]])
    parquet.write_table(words, tmp_path / "words" / "test.parquet")
    assert open_dataset(data(tmp_path / "words"), 1, "test").label_names == ("b", "c")
    about = table.schema.metadata[b"huggingface"].replace(b'"neg", "pos"', b"2, 3")
    numbers = table.replace_schema_metadata({"huggingface": about})
    parquet.write_table(numbers, tmp_path / "words" / "test.parquet")
    assert open_dataset(data(tmp_path / "words"), 1, "test").label_names == ("2", "3")
    classed(tmp_path / "test.parquet", ["pos", "neg"], [1, 0])
    assert mistakes(lambda: open_dataset(data(tmp_path), 1).splits) == [
        "the files name their classes differently (train.parquet: neg, pos; test.parquet: pos, neg)"
    ]


def test_pairs_of_texts(tmp_path: Path):
    columns = {"text": ["a", "b"], "question": ["c", "d"], "label": [0, 1]}
    dataset = open_dataset(
        data(folder(tmp_path / "x", train=columns, test=columns), pair_column="question"), 1
    )
    split = dataset.splits["train"]
    assert (split.texts(slice(1, 2)), split.pairs(slice(1, 2))) == (["b"], ["d"])


# which rows


def test_cuts_where_a_split_is_missing(tmp_path: Path):
    path = write(
        tmp_path / "all.csv", {**reviews(100), "label": [0 if i < 80 else 1 for i in range(100)]}
    )
    dataset = open_dataset(data(path, validation_fraction=0.2, test_fraction=0.1), 7)
    sizes = {name: (len(split), int(split.labels.sum())) for name, split in dataset.splits.items()}
    assert sizes == {"train": (70, 14), "validation": (20, 4), "test": (10, 2)}
    assert sorted(np.concatenate([split.rows for split in dataset.splits.values()])) == [
        *range(100)
    ]
    again, other = (
        open_dataset(data(path, validation_fraction=0.2, test_fraction=0.1), seed)
        for seed in (7, 8)
    )
    assert read(again) == read(dataset) != read(other)


def test_rows_are_drawn_after_the_cut_and_only_from_their_split(tmp_path: Path):
    path = folder(tmp_path / "x", train=reviews(100), test=reviews(50, 100))
    whole = open_dataset(data(path, validation_fraction=0.2), 7)
    some = open_dataset(data(path, validation_fraction=0.2, max_rows=10, max_eval_rows=5), 7)
    assert {name: len(split) for name, split in some.splits.items()} == {
        "train": 10,
        "validation": 5,
        "test": 5,
    }
    for name, split in some.splits.items():
        assert set(split.texts(slice(None))) <= set(whole.splits[name].texts(slice(None)))
        assert (np.diff(split.rows) > 0).all()


def test_pooled_splits_are_cut_again(tmp_path: Path):
    path = folder(tmp_path / "x", validation=reviews(20), test=reviews(80, 20))
    assert mistakes(lambda: open_dataset(data(path), 1).splits) == [
        "the dataset has no train split, only validation and test: data.pool_splits = true joins "
        "all rows and splits them by data.validation_fraction and data.test_fraction"
    ]
    dataset = open_dataset(
        data(path, pool_splits=True, validation_fraction=0.1, test_fraction=0.2, max_rows=30), 1
    )
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        "train": 30,
        "validation": 10,
        "test": 20,
    }
    test = dataset.splits["test"]
    assert {test.origin(i).split(",")[0] for i in range(20)} == {
        "validation.parquet",
        "test.parquet",
    }


def test_fractions_that_contradict_the_dataset(tmp_path: Path):
    whole = folder(tmp_path / "x", train=reviews(10), validation=reviews(4), test=reviews(6))
    assert mistakes(
        lambda: open_dataset(data(whole, validation_fraction=0.1, test_fraction=0.2), 1).splits
    ) == [
        "data.validation_fraction = 0.1: the dataset has its own validation split; "
        "remove the fraction to use it, or set data.pool_splits = true to split all rows again",
        "data.test_fraction = 0.2: the dataset has its own test split; "
        "remove the fraction to use it, or set data.pool_splits = true to split all rows again",
    ]
    assert mistakes(lambda: open_dataset(data(whole / "train.parquet"), 1).splits) == [
        "the dataset has neither a validation nor a test split: set data.validation_fraction or "
        "data.test_fraction, e.g. 0.1"
    ]
    assert mistakes(
        lambda: open_dataset(data(whole / "train.parquet", test_fraction=0.01), 1).splits
    ) == ["data.test_fraction = 0.01: selects no rows out of 10"]


def test_texts_may_be_read_in_any_order_and_twice(tmp_path: Path):
    split = open_dataset(
        data(folder(tmp_path / "x", train=reviews(20), test=reviews(4))), 1
    ).splits["train"]
    places = [7, 3, 3, 19, 0, 4, 5, 5]
    assert split.texts(np.array(places)) == [reviews(20)["text"][place] for place in places]


@given(sizes=st.lists(st.integers(0, 5), max_size=6), picks=st.data())
def test_take_values_reads_what_indexing_would(sizes: list[int], picks: st.DataObject):
    chunks = [[f"{i}.{j}" for j in range(size)] for i, size in enumerate(sizes)]
    flat = [value for chunk in chunks for value in chunk]
    rows = (
        sorted(picks.draw(st.sets(st.integers(0, max(0, len(flat) - 1)), max_size=len(flat))))
        if flat
        else []
    )
    column = pa.chunked_array(chunks, pa.string())
    assert take_values(column, np.array(rows, dtype=np.int64)) == [flat[row] for row in rows]


# fingerprints


def test_equal_content_has_an_equal_fingerprint_wherever_it_lies(tmp_path: Path):
    first = folder(tmp_path / "one", train=reviews(10), test=reviews(4))
    second = Path(shutil.copytree(first, tmp_path / "two"))
    (second / "README.md").write_text("not part of it")
    assert open_dataset(data(first), 1).fingerprint == open_dataset(data(second), 1).fingerprint
    write(second / "train.parquet", reviews(11))
    assert open_dataset(data(first), 1).fingerprint != open_dataset(data(second), 1).fingerprint


def test_whatever_changes_the_rows_changes_the_fingerprint(tmp_path: Path):
    path = folder(tmp_path / "x", train=reviews(10), test=reviews(4))
    selections = [{}, {"max_rows": 5}, {"max_eval_rows": 2}, {"validation_fraction": 0.2},
                  {"labels": ("a", "b")}, {"pool_splits": True, "test_fraction": 0.5},
                  {"drop_bad_rows": True}, {"label_column": "x"},
                  {"text_column": "x"}, {"pair_column": "x"}]  # fmt: skip
    assert len({open_dataset(data(path, **keys), 1).fingerprint for keys in selections}) == len(
        selections
    )


def test_the_seed_counts_only_where_something_is_drawn(tmp_path: Path):
    path = folder(tmp_path / "x", train=reviews(10), test=reviews(4))
    assert open_dataset(data(path), 1).fingerprint == open_dataset(data(path), 2).fingerprint
    assert (
        open_dataset(data(path, max_rows=5), 1).fingerprint
        != open_dataset(data(path, max_rows=5), 2).fingerprint
    )


def test_a_file_written_again_is_read_again(tmp_path: Path):
    for suffix in SUFFIXES:
        path = folder(tmp_path / suffix, suffix, train=reviews(4), test=reviews(4))
        assert len(open_dataset(data(path), 1).splits["train"]) == 4
        write(path / f"train{suffix}", reviews(6))
        os.utime(path / f"train{suffix}", (2_000_000_000, 2_000_000_000))
        assert len(open_dataset(data(path), 1).splits["train"]) == 6


# sources that are not there


def test_paths_that_lead_nowhere(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "notes" / name).touch()
    source = "data.source = {path!r}: "
    cases = {
        "nowhere": [source + "no such file or folder"],
        "notes/a.txt": ["a.txt: no column 'text' (data.text_column); the file is empty"],
        "empty": [source + LACK + 'nothing; data.train = "FILE" names the training rows'],
        "notes": [source + LACK + 'a.txt, b.txt; data.train = "a.txt" names the training rows'],
    }
    for name, lines in cases.items():
        path = tmp_path / name
        found = mistakes(lambda path=path: open_dataset(data(path), 1).splits)
        assert found[: len(lines)] == [line.format(path=str(path)) for line in lines]


def test_a_split_that_exists_twice(tmp_path: Path):
    folder(tmp_path, ".csv", train=reviews(4), val=reviews(2), dev=reviews(2))
    assert mistakes(lambda: open_dataset(data(tmp_path), 1)) == [
        f"data.source = {str(tmp_path)!r}: the validation split exists twice, as dev.csv and "
        'val.csv; keep one, or choose: data.validation = "dev.csv"'
    ]


# the hub, through its cache


def hub_cache(
    cache: Path, repo: str, config: str, splits: dict[str, list[int]], names: list[str]
) -> None:
    """What datasets leaves in its cache after loading `repo` from the hub."""
    from datasets.packaged_modules.parquet.parquet import Parquet

    files = {}
    for split, labels in splits.items():
        classed(cache.parent / repo / f"{split}.parquet", names, labels)
        files[split] = [str(cache.parent / repo / f"{split}.parquet")]
    commit = "c0ffee" + "0" * 34
    builder = Parquet(str(cache), repo.split("/")[1], config, hash=commit, data_files=files)
    builder.download_and_prepare()
    home = cache / repo.replace("/", "___") / config / "0.0.0"
    home.mkdir(parents=True)
    shutil.move(builder.cache_dir, home / commit)


def test_a_folder_called_like_a_dataset_of_the_hub_is_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imdb").mkdir()
    assert open_dataset(data("imdb"), 1).notes == (
        "data.source = 'imdb' is stanfordnlp/imdb of the hub: ./imdb is not read; "
        "data.source=./imdb reads it",
    )


def test_well_known_datasets_from_the_hubs_cache(own_cache: Path):  # noqa: F811
    emotions = ["sadness", "joy", "love", "anger", "fear", "surprise"]
    six = [0, 1, 2, 3, 4, 5]
    hub_cache(
        own_cache,
        "dair-ai/emotion",
        "split",
        {"train": six, "validation": six, "test": six},
        emotions,
    )
    hub_cache(
        own_cache,
        "stanfordnlp/imdb",
        "plain_text",
        {"train": [0, 1], "test": [1, 0], "unsupervised": [-1]},
        ["neg", "pos"],
    )
    dataset = open_dataset(data("emotion"), 1)
    assert [*dataset.splits] == ["train", "validation", "test"] and dataset.label_names == tuple(
        emotions
    )
    assert dataset.splits["train"].origin(0) == "dair-ai/emotion train, row 1"
    dataset = open_dataset(data("imdb"), 1)
    assert read(dataset)["test"] == (["text 0", "text 1"], [1, 0]) and dataset.label_names == (
        "neg",
        "pos",
    )
    assert [*dataset.splits] == ["train", "test"] and not dataset.notes
    assert open_dataset(data("imdb", revision="c0ffee00"), 1).fingerprint
    assert mistakes(lambda: open_dataset(data("imdb", revision="deadbeef"), 1).fingerprint) == [
        "data.revision = 'deadbeef': the local cache has stanfordnlp/imdb in version "
        f"c0ffee{'0' * 34} only"
    ]


@pytest.mark.parametrize(
    ("source", "name"), [("tweets", "cardiffnlp/tweet_eval"), ("some/dataset", "some/dataset")]
)
def test_no_network_and_nothing_in_the_cache(source: str, name: str):
    assert mistakes(lambda: open_dataset(data(source), 1).splits) == [
        f"data.source = {source!r}: {name} is not in the local cache and the hub cannot be "
        "reached; run once online with a shared HF_HOME, or name a folder with train, validation "
        "and test files"
    ]


# the real thing


@pytest.mark.real
@pytest.mark.skipif(
    "DISTSENT_DATA" not in os.environ,
    reason="DISTSENT_DATA does not name a folder of real datasets",
)
@pytest.mark.parametrize(
    ("name", "keys", "sizes", "names"),
    [
        ("imdb", {}, [25_000, 25_000], "neg pos"),
        ("imdb", {"pool_splits": True, "test_fraction": 0.2}, [40_000, 10_000], "neg pos"),
        ("emotion", {}, [16_000, 2_000, 2_000], "sadness joy love anger fear surprise"),
        (
            "tweeteval-sentiment",
            {
                "pool_splits": True,
                "validation_fraction": 0.1,
                "test_fraction": 0.1,
                "max_rows": 1000,
            },
            [1000, 1428, 1428],
            "negative neutral positive",
        ),
    ],
)
def test_real_datasets(name: str, keys: dict, sizes: list[int], names: str):
    dataset = open_dataset(data(Path(os.environ["DISTSENT_DATA"]) / name, **keys), 42)
    assert [len(split) for split in dataset.splits.values()] == sizes
    assert dataset.label_names == tuple(names.split())
    for split in dataset.splits.values():
        assert len(np.unique(split.labels)) == len(dataset.label_names)


def test_parquet_files_that_other_tools_write(tmp_path: Path):
    """Large strings, dictionaries and nulls of their own kind."""
    texts = pa.array(["a", "b", "c", "d"], pa.large_string())
    labels = pa.array(["x", "y", "x", "y"]).dictionary_encode()
    for name in ("train", "test"):
        parquet.write_table(
            pa.table({"text": texts, "label": labels}), tmp_path / f"{name}.parquet"
        )
    dataset = open_dataset(data(tmp_path), 1)
    assert read(dataset)["test"] == (
        ["a", "b", "c", "d"],
        [0, 1, 0, 1],
    ) and dataset.label_names == (
        "x",
        "y",
    )
