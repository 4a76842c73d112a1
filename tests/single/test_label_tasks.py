"""data.task: several labels per text, and numbers: what is read, what is refused, how it splits."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import MultiLabelBinarizer

from distsent import prepare
from distsent.batching.batch_plan import collate
from distsent.data.dataset import TextDataset, open_dataset
from distsent.data.labels.names import Naming
from distsent.data.several_strata import draw_share
from distsent.data.tokens.store import open_token_store
from distsent.distributed.world import World
from distsent.errors import UserError
from distsent.job import load_job
from tests.dataset_files import data, folder, mistakes, own_cache, tokenizer  # noqa: F401

pytestmark = pytest.mark.usefixtures("own_cache")

MANY: dict[str, Any] = {"task": "multi_label"}
TEXT: dict[str, Any] = MANY | {"label_delimiter": ","}
NUMBERS: dict[str, Any] = {"task": "regression"}
COLUMNS: dict[str, Any] = {"label_columns": ("b", "a")}


def dataset(path: Path, suffix: str, values: Any, **keys: Any) -> TextDataset:
    """A dataset whose train and test have these labels: a list, or a table of columns."""
    columns = values if isinstance(values, dict) else {"label": values}
    n = len(next(iter(columns.values())))
    rows = {"text": [f"the film {i}" for i in range(n)], **columns}
    return open_dataset(data(folder(path, suffix, train=rows, test=rows), **keys), 1)


def names(path: Path, suffix: str, values: Any, **keys: Any) -> tuple[str, list[Any]]:
    found = dataset(path, suffix, values, **keys)
    train = found.splits["train"].labels
    return " ".join(found.label_names), train.tolist()


@pytest.mark.parametrize(("suffix", "labels", "keys", "expected"), [
    (".jsonl", [["joy"], ["joy", "anger"]], MANY, ("anger joy", [[0, 1], [1, 1]])),
    (".parquet", [["joy", "joy"], ["joy", "anger"]], MANY, ("anger joy", [[0, 1], [1, 1]])),
    (".parquet", pa.array([[2], [0]], pa.large_list(pa.int8())), MANY, ("0 2", [[0, 1], [1, 0]])),
    (".parquet", pa.array([["x"], ["y"]], pa.list_(pa.string(), 1)), MANY,
     ("x y", [[1, 0], [0, 1]])),
    (".jsonl", [[0], [0, 2], [1]], MANY | {"labels": ("a", "b", "c")},
     ("a b c", [[1, 0, 0], [1, 0, 1], [0, 1, 0]])),
    (".jsonl", [["+"], ["+", "-"]], MANY | {"labels": {"-": "bad", "+": "good"}},
     ("bad good", [[0, 1], [1, 1]])),
    (".jsonl", [["a"], [], ["b"]], MANY | {"allow_empty_labels": True},
     ("a b", [[1, 0], [0, 0], [0, 1]])),
    (".jsonl", [["a"], ["A ", "b"]], MANY | {"fold_labels": True}, ("A b", [[1, 0], [1, 1]])),
    (".jsonl", [["a"], ["b", "?"], ["b"]], MANY | {"drop_labels": ("?",)},
     ("a b", [[1, 0], [0, 1]])),
    (".csv", ["joy, anger", "joy", " anger,"], TEXT, ("anger joy", [[1, 1], [0, 1], [1, 0]])),
    (".tsv", ["2,0", "1"], TEXT | {"labels": ("a", "b", "c")}, ("a b c", [[1, 0, 1], [0, 1, 0]])),
    (".csv", ["a,b", ""], TEXT | {"allow_empty_labels": True}, ("a b", [[1, 1], [0, 0]])),
    (".csv", ["['a', 'b']", '["a"]', "[]"], MANY | {"allow_empty_labels": True},
     ("a b", [[1, 1], [1, 0], [0, 0]])),
    (".parquet", ["['a', 2]", "[]", "{'x': ['a']}"], MANY | {"allow_empty_labels": True},
     ("2 a", [[1, 1], [0, 0], [0, 1]])),
    (".csv", ['{"choices": ["a", "b, c"]}', "a", "b, c"], MANY | {"label_delimiter": "|"},
     ("a b, c", [[1, 1], [1, 0], [0, 1]])),
    (".jsonl", [[1, 0, 1], [0, 0, 0], None, [0, 1, 0]], MANY | {"drop_bad_rows": True},
     ("0 1 2", [[1, 0, 1], [0, 0, 0], [0, 1, 0]])),
    (".parquet", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], MANY | {"labels": ("x", "y", "z")},
     ("x y z", [[1, 0, 0], [0, 1, 0]])),
    (".parquet", [[True, False], [True, True]], MANY | {"labels": {"1": "y", "0": "x"}},
     ("y x", [[0, 1], [1, 1]])),
    (".jsonl", [[1, 0, 1], [0, 1, 0], [0, 0, 1]], MANY | {"drop_labels": ("0",)},
     ("1 2", [[1, 0], [0, 1]])),
    (".csv", ["[1 0]", "[0 1]"], MANY, ("0 1", [[1, 0], [0, 1]])),
    (".jsonl", [[0, 1], [1]], MANY, ("0 1", [[1, 1], [0, 1]])),
    (".csv", ["['a' 'b c'\n 'd']", "['b c']", "['a,' \"d\"]"], MANY,
     ("a a, b c d", [[1, 0, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1]])),
    (".parquet", ["a;b", "a", "b"], MANY | {"label_delimiter": ";"},
     ("a b", [[1, 1], [1, 0], [0, 1]])),
    (".csv", {"a": ["1", "0", "False"], "b": ["0", "1.0", "TRUE"]}, MANY | COLUMNS,
     ("b a", [[0, 1], [1, 0], [1, 0]])),
    (".parquet", {"a": [True, False], "b": [0, 1]}, MANY | COLUMNS, ("b a", [[0, 1], [1, 0]])),
    (".csv", ["1.5", " -3e1", "+.5", "7"], NUMBERS, ("label", [[1.5], [-30], [0.5], [7]])),
    (".jsonl", [1, 0.1, "2.5"], NUMBERS, ("label", [[1], [0.1], [2.5]])),
    (".parquet", pa.array([1, 2], pa.int8()), NUMBERS, ("label", [[1], [2]])),
    (".parquet", pa.array(["1.25", "2"]).cast(pa.decimal128(5, 2)), NUMBERS,
     ("label", [[1.25], [2]])),
    (".csv", ["bad", "good", "bad"], NUMBERS | {"labels": {"bad": -1.0, "good": "1"}},
     ("label", [[-1], [1], [-1]])),
    (".csv", {"a": [1, 2.5], "b": [0, -1]}, NUMBERS | COLUMNS, ("b a", [[0, 1], [-1, 2.5]])),
])  # fmt: skip
def test_what_is_read(
    tmp_path: Path, suffix: str, labels: Any, keys: dict[str, Any], expected: tuple[str, list[Any]]
) -> None:
    assert names(tmp_path, suffix, labels, **keys) == expected


@pytest.mark.parametrize(("suffix", "labels", "keys", "line"), [
    (".jsonl", [["a"], ["a", "b"], []], MANY,
     "1 row with an empty list of labels: row 3; data.allow_empty_labels = true allows it"),
    (".csv", ["a,b", "", " , "], TEXT, "2 rows with an empty list of labels: row 2, row 3; "),
    (".jsonl", [["a"], ["b", None], None, ["b", ""]], MANY,
     "2 rows with a null or blank in the list of labels: row 2, row 4"),
    (".jsonl", [["a"], None, ["b"]], MANY, "1 row with no label: row 2"),
    (".jsonl", [["a"], ["b", "c"]], MANY | {"labels": ("a", "b")},
     "1 row with a label outside the classes a, b: row 2 (['b', 'c'])"),
    (".jsonl", [["0"], [1, -1]], MANY, "1 row with the label -1 (not labeled; "),
    (".jsonl", [["a"], "b"], MANY,
     "row 2: column 'label': \"b\" is text; data.label_delimiter says what is between its labels"),
    (".csv", ["a,b", "b"], MANY, "row 1: column 'label': \"a,b\" is text; data.label_delimiter"),
    (".parquet", ["a,b", "b"], MANY, "column 'label': \"a,b\" is text; data.label_delimiter"),
    (".jsonl", [["a"], [["b"]]], MANY, "row 2: column 'label': [\"b\"] is a list within a list"),
    (".jsonl", [["a"], [{"b": 1}]], MANY, "row 2: column 'label': {\"b\": 1} is not a label"),
    (".jsonl", [["a"], 3], MANY, "row 2: column 'label': 3 is not a list of labels; expected a "),
    (".parquet", [1, 2], MANY, "column 'label': 1 is not a list of labels; expected a list, or "),
    (".jsonl", [["a"], ["b"]], TEXT, "row 1: column 'label': [\"a\"] is a list; data.label_delim"),
    (".parquet", [["a"], ["b"]], TEXT, "column 'label': holds lists: leave out data.label_delim"),
    (".csv", ["['a', 'b']", "a"], MANY, "row 2: column 'label': \"a\" is text; data.label_deli"),
    (".csv", ["['a', 'b']", "['a']"], {},
     "column 'label' contains \"['a', 'b']\", which are lists: data.task = \"multi_label\" reads"),
    (".tsv", ["1", "2,0", "3"], {},
     "column 'label' contains '2,0' among numbers: several labels, or decimals? data.task = "),
    (".csv", ["a#b", "a", "b"], {}, '"multi_label" and data.label_delimiter = "#" read several'),
    (".csv", ['{"choices": ["a", "b"]}', "a,b"], {},
     'are lists: data.task = "multi_label" and data.label_delimiter = ";" read several labels'),
    (".csv", ["a;b", "a"], TEXT, 'data.label_delimiter = ",": it occurs in no label of '),
    (".csv", {"a": [1, 2, 0], "b": [0, 1, ""]}, MANY | COLUMNS,
     "1 row with neither 0 nor 1 in column 'a': row 2 ('2')"),
    (".jsonl", [[1, 0, 1], [0, 1, 0]], MANY | {"labels": ("a", "b")},
     "column 'label': lists of 0 and 1 with 3 places, and 2 names (a, b): one for each place"),
    (".jsonl", [[1, 0, 1], [0, 1, 0]], MANY | {"drop_labels": ("3",)},
     "column 'label' does not contain '3', but '0', '1', '2'"),
    (".jsonl", [["a", "b"]] * 3, MANY, "all training rows have the labels 'a', 'b': nothing to le"),
    (".csv", ["3", "3.0", "3"], NUMBERS, "all training rows have the number 3.0: nothing to learn"),
    (".csv", ["['a' 'b', 'c']", "['a']"], MANY, "column 'label': \"['a' 'b', 'c']\" is text"),
    (".csv", ["['a' 'b']", "['a']"], {}, "column 'label' contains \"['a' 'b']\", which are lists"),
    (".csv", {"a": [1, 0, 0], "b": [0, 1, ""]}, MANY | COLUMNS,
     "1 row with neither 0 nor 1 in column 'b': row 3 (None)"),
    (".csv", {"a": [1, 0, -1], "b": [0, 1, 1]}, MANY | COLUMNS,
     "1 row with neither 0 nor 1 in column 'a': row 3 ('-1')"),
    (".csv", {"a": [1, 0, ""], "b": [0, 1, ""]}, MANY | COLUMNS, "1 row with no label: row 3"),
    (".csv", {"a": [1, 0, -1], "b": [0, 1, -1]}, MANY | COLUMNS, "1 row with the label -1"),
    (".csv", {"a": [1, 0], "c": [0, 1]}, MANY | COLUMNS,
     "no column 'b' (data.label_columns); there are text, a, c"),
    (".csv", ["1", "x", "nan", "inf", "1_0", "0x1", "1e999"], NUMBERS,
     "6 rows with no finite number in column 'label': row 2 ('x'), row 3 ('nan'), row 4 ('inf') "
     "and 3 more"),
    (".csv", ["1", "1,5", "1.000,5"], NUMBERS,
     "1 row with a comma in column 'label'; write a decimal point, and no mark between thousands: "
     "row 2 ('1,5')"),
    (".jsonl", [1, True], NUMBERS, "1 row with no finite number in column 'label': row 2 ('true')"),
    (".parquet", [True, False], NUMBERS, "2 rows with no finite number in column 'label': row 1 ("),
    (".parquet", [1.0, float("inf"), float("nan")], NUMBERS, "1 row with no finite number in colu"),
    (".parquet", [1.0, None, float("nan")], NUMBERS, "2 rows with no label: row 2, row 3"),
    (".jsonl", [1.5, [1, 2]], NUMBERS,
     "row 2: column 'label': [1, 2] is not a number; data.label_columns reads one from each colu"),
    (".csv", ["bad", "ugly"], NUMBERS | {"labels": {"bad": -1.0, "good": 1.0}},
     "1 row with no value that data.labels names ('bad', 'good') in column 'label': row 2 ('ugl"),
    (".csv", ["bad", "good"], NUMBERS | {"labels": {"bad": "-1", "good": "one"}},
     "data.labels: 'good' is 'one', which is not a number"),
    (".jsonl", [["a"], ["a", "b"]], {"label_column": "label.0"}, '2 values, of which one is read; '
     'several labels need data.task = "multi_label"'),
])  # fmt: skip
def test_what_is_refused(
    tmp_path: Path, suffix: str, labels: Any, keys: dict[str, Any], line: str
) -> None:
    found = mistakes(lambda: dataset(tmp_path, suffix, labels, **keys).splits)
    assert any(line in one for one in found), found
    assert all("\n" not in one and len(one) < 300 for one in found)


def test_bad_rows_of_each_task_can_be_left_out(tmp_path: Path) -> None:
    keys: dict[str, Any] = {"drop_bad_rows": True}
    several = names(tmp_path / "m", ".jsonl", [["a"], [], ["b"], [None], None], **MANY, **keys)
    numbers = names(tmp_path / "n", ".csv", ["1", "x", "", "2,5", "3"], **NUMBERS, **keys)
    assert (several, numbers) == (("a b", [[1, 0], [0, 1]]), ("label", [[1], [3]]))


@pytest.mark.parametrize(("keys", "line"), [
    ({"data.label_delimiter": ","}, 'has no meaning for data.task = "single_label", only for "mu'),
    ({"data.label_columns": ["a", "b"]}, 'only for "multi_label" and "regression"'),
    ({"data.allow_empty_labels": True}, 'has no meaning for data.task = "single_label"'),
    (MANY | COLUMNS | {"data.labels": ["a", "b"]}, "has no meaning beside data.label_columns"),
    (MANY | COLUMNS | {"data.drop_labels": ["a"]}, "has no meaning beside data.label_columns"),
    (MANY | COLUMNS | {"data.label_column": "y"}, "has no meaning beside data.label_columns"),
    (MANY | {"label_columns": ["a"]}, 'one column is one class: data.label_column = "a" with'),
    (MANY | {"label_columns": ["text", "a"]}, "contains 'text', which is a text"),
    (NUMBERS | {"data.labels": ["a", "b"]}, "expected a table from values to numbers"),
    (NUMBERS | {"data.fold_labels": True}, 'has no meaning for data.task = "regression"'),
    (NUMBERS | {"data.drop_labels": ["a"]}, 'has no meaning for data.task = "regression"'),
    (NUMBERS | {"train.class_weights": "balanced"}, 'has no meaning for data.task = "regression"'),
    ({"data.task": "multilabel"}, 'expected "single_label" or "multi_label" or "regression"'),
])  # fmt: skip
def test_keys_without_meaning_for_a_task_are_refused(keys: dict[str, Any], line: str) -> None:
    words = [f"{k if '.' in k else f'data.{k}'}={json.dumps(v)}" for k, v in keys.items()]
    (found,) = mistakes(lambda: load_job(None, words))
    assert line in found


LISTS = st.lists(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), min_size=2, max_size=12
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(lists=LISTS, seed=st.integers(0, 1 << 30))
def test_lists_columns_and_texts_of_the_same_labels_are_equal(
    tmp_path: Path, lists: list[list[str]], seed: int
) -> None:
    lists[0] = [*"ab"]  # two in a row: else a delimiter is never seen
    assume(len({frozenset(some) for some in lists}) > 1)  # else there is nothing to learn
    oracle = MultiLabelBinarizer()
    expected = oracle.fit_transform(lists)
    classes = " ".join(oracle.classes_)
    path = tmp_path / str(seed)
    columns = {name: expected[:, i].tolist() for i, name in enumerate(oracle.classes_)}
    wide = MANY | {"label_columns": tuple(oracle.classes_)}
    ways: list[tuple[str, Any, dict[str, Any]]] = [
        (".jsonl", lists, MANY),
        (".parquet", lists, MANY),
        (".csv", [" | ".join(some) for some in lists], MANY | {"label_delimiter": "|"}),
        (".csv", columns, wide),
        (".parquet", columns, wide),
    ]
    for i, (suffix, labels, keys) in enumerate(ways):
        found = names(path / str(i), suffix, labels, **keys)
        assert found == (classes, expected.tolist()), (suffix, keys)


def test_class_lists_of_datasets_have_their_names(tmp_path: Path) -> None:
    from datasets import ClassLabel, Dataset, Features, Sequence, Value

    label = ClassLabel(names=["sad", "glad"])
    for name, feature in (("new", [label]), ("old", Sequence(label))):
        features = Features({"text": Value("string"), "label": feature})
        rows = {"text": ["a", "b"], "label": [[1], [0, 1]]}
        for split in ("train", "test"):
            (tmp_path / name).mkdir(exist_ok=True)
            Dataset.from_dict(rows, features).to_parquet(tmp_path / name / f"{split}.parquet")
        found = open_dataset(data(tmp_path / name, **MANY), 1)
        assert found.label_names == ("sad", "glad")
        assert found.splits["train"].labels.tolist() == [[0, 1], [1, 1]]
    one = Features({"text": Value("string"), "label": label})
    rows = {"text": ["a", "b"], "label": [0, 1]}
    for split in ("train", "test"):
        (tmp_path / "one").mkdir(exist_ok=True)
        Dataset.from_dict(rows, one).to_parquet(tmp_path / "one" / f"{split}.parquet")
    (line,) = mistakes(lambda: open_dataset(data(tmp_path / "one", **NUMBERS), 1).splits)
    assert "holds the classes 'sad', 'glad'; data.labels gives each its number" in line
    given = data(tmp_path / "one", labels={"sad": -1.0, "glad": 1.0}, **NUMBERS)
    assert open_dataset(given, 1).splits["test"].labels.tolist() == [[-1], [1]]


def test_lines_of_fasttext_have_any_number_of_labels(tmp_path: Path) -> None:
    def written(*lines: str) -> Path:
        for split in ("train", "test"):
            (tmp_path / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path

    several = "__label__joy __label__awe a", "__label__joy b", "c\t__label__awe"
    found = open_dataset(data(written(*several), **MANY), 1)
    assert found.label_names == ("awe", "joy")
    assert found.splits["train"].labels.tolist() == [[1, 1], [0, 1], [1, 0]]
    (line,) = mistakes(lambda: open_dataset(data(tmp_path), 1).splits)
    assert "train.txt, row 1: 2 labels (__label__joy, __label__awe); one label per text" in line
    written(*several, "no label")
    (line, _) = mistakes(lambda: open_dataset(data(tmp_path, **MANY), 1).splits)
    assert "1 row with an empty list of labels: row 4; data.allow_empty_labels = true" in line
    found = open_dataset(data(tmp_path, allow_empty_labels=True, **MANY), 1)
    assert found.splits["test"].labels.tolist()[3] == [0, 0]
    found = open_dataset(data(written("__label__joy,awe a", "__label__awe b"), **TEXT), 1)
    assert found.splits["train"].labels.tolist() == [[1, 1], [1, 0]]


def test_a_store_keeps_the_labels_and_batches_carry_them(tmp_path: Path) -> None:
    cases: tuple[tuple[str, Any, dict[str, Any], type], ...] = (
        (".jsonl", [["a"], [], ["b", "a"]], MANY | {"allow_empty_labels": True}, np.uint8),
        (".csv", {"a": [1, 2.5, 0.1], "b": [0, -1, 3]}, NUMBERS | COLUMNS, np.float64),
        (".csv", ["x", "y", "x"], {}, np.int32),
    )
    for i, (suffix, labels, keys, dtype) in enumerate(cases):
        found = dataset(tmp_path / str(i), suffix, labels, **keys)
        store = open_token_store(
            found.data, 1, tokenizer(), 12, tmp_path / "stores", workers=World()
        )
        train, expected = store.splits["train"], found.splits["train"].labels
        assert store.task == keys.get("task", "single_label") and train.labels.dtype == dtype
        assert ("task" in store.meta) == bool(keys) and np.array_equal(train.labels, expected)
        rows = np.array([2, 0])
        batch = collate(train, rows, None, torch.device("cpu"))
        assert batch.labels_n.dtype == (torch.float32 if keys else torch.int64)
        assert torch.equal(batch.labels_n, torch.tensor(expected[rows]).to(batch.labels_n.dtype))


def test_the_table_of_labels(tmp_path: Path) -> None:
    several = dataset(tmp_path / "m", ".jsonl", [["a"], [], ["b", "a"]], allow_empty_labels=True,
                      **MANY)  # fmt: skip
    numbers = dataset(tmp_path / "n", ".csv", {"a": [1, 2, 6], "b": [0, 0, 0.5]}, **NUMBERS,
                      **COLUMNS)  # fmt: skip
    home = tmp_path / "stores"
    tables = [
        open_token_store(one.data, 1, tokenizer(), 12, home, workers=World()).label_table
        for one in (several, numbers)
    ]
    assert tables == [
        ["class                  train  test",
         "a                          2     2",
         "b                          1     1",
         "(labels per text)       1.00  1.00",
         "(texts without label)      1     1"],
        ["number  split  min    mean  max     std",
         "b       train    0  0.1667  0.5  0.2357",
         "b        test    0  0.1667  0.5  0.2357",
         "a       train    1       3    6    2.16",
         "a        test    1       3    6    2.16"],
    ]  # fmt: skip


@given(
    n=st.integers(4, 300),
    labels=st.integers(1, 12),
    fraction=st.floats(0.05, 0.6),
    seed=st.integers(0, 1 << 30),
)
def test_several_labels_are_shared_by_their_counts(
    n: int, labels: int, fraction: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    every = (random.random((2 * n, labels)) < random.random(labels) ** 2).astype(np.uint8)
    rows = np.sort(random.permutation(2 * n)[:n])
    size = round(fraction * n)
    part = draw_share(rows, every, size, np.random.default_rng(seed))
    again = draw_share(rows, every, size, np.random.default_rng(seed))
    assert np.array_equal(part, again) and {*part} <= {*rows} and (np.diff(part) > 0).all()
    counts, taken = every[rows].sum(0).astype(int), every[part].sum(0).astype(int)
    assert (taken < counts)[counts > 0].all()  # the rest has a row of each label
    assert len(part) <= size
    roomy = counts[counts > 0] * (1 - fraction) > labels + 1
    if bool(np.all(roomy)):
        assert len(part) == size and (np.abs(taken - fraction * counts) <= 3).all()


def test_splits_of_a_large_set_are_near_the_exact_shares_and_differ_by_seed() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((20_000, 30)) < random.random(30) ** 4).astype(np.uint8)
    rows, size = np.arange(20_000), 2_000
    parts = [draw_share(rows, labels, size, np.random.default_rng(seed)) for seed in (1, 2)]
    for part in parts:
        assert np.abs(labels[part].sum(0) - labels.sum(0) / 10).max() <= 1
        none = np.asarray(labels.sum(axis=1) == 0)
        assert len(part) == size and abs(none[part].sum() - none.sum() / 10) <= 1
    assert len({*parts[0]} & {*parts[1]}) < size / 2


def test_splits_of_each_task(tmp_path: Path) -> None:
    lists = [["rare", "a"] if i in (7, 30) else ["a"] if i % 3 else ["b"] for i in range(60)]
    cut: dict[str, Any] = {"pool_splits": True, "validation_fraction": 0.25, "max_rows": 10}
    found = dataset(tmp_path / "m", ".jsonl", lists, **MANY, **cut).splits
    assert {name: len(split) for name, split in found.items()} == {"train": 10, "validation": 30}
    assert found["train"].labels.any(axis=0).all()  # even 10 rows have one of each class
    numbers = dataset(tmp_path / "n", ".csv", [i / 7 for i in range(60)], **NUMBERS, **cut).splits
    assert {name: len(split) for name, split in numbers.items()} == {"train": 10, "validation": 30}


def test_other_datasets_are_read_by_the_model(tmp_path: Path) -> None:
    def read(path: str, labels: Any, naming: Naming, **keys: Any) -> tuple[list[str], Any]:
        rows = {"text": ["x", "y"], **(labels if isinstance(labels, dict) else {"label": labels})}
        suffix = ".csv" if isinstance(labels, dict) else ".jsonl"
        source = folder(tmp_path / path, suffix, test=rows)
        found = open_dataset(data(source, **keys), 1, "test", naming=naming)
        return list(found.label_names), found.splits["test"].labels.tolist()

    model = Naming.of_model(["b", "a", "c"], None)
    expected = ["b", "a", "c"], [[0, 1, 0], [1, 0, 1]]
    assert read("1", [["a"], ["c", "b"]], model, **MANY) == expected
    assert read("0", [[0, 1, 0], [1, 0, 1]], model, **MANY) == expected
    with pytest.raises(UserError, match=r"4 places, and 3 names \(b, a, c\): one for each place"):
        read("7", [[0, 1, 0, 0], [1, 0, 1, 0]], model, **MANY)
    wide = {"a": [1, 0], "b": [0, 1], "c": [0, 1]}
    keys = MANY | {"label_columns": ("a", "b", "c")}
    assert read("2", wide, model, **keys) == expected
    with pytest.raises(UserError, match="the model has learned b, a, c"):
        read("3", wide, model, **MANY, label_columns=("a", "b"))
    with pytest.raises(UserError, match="a label outside the classes b, a, c: row 2"):
        read("4", [["a"], ["z"]], model, **MANY)
    stars = Naming.of_numbers(["stars"], {"low": "-1", "high": "1"})
    assert read("5", ["low", "high"], stars, **NUMBERS) == (["stars"], [[-1], [1]])
    assert read("6", [-1, 0.5], stars, **NUMBERS) == (["stars"], [[-1], [0.5]])


def test_the_stars_in_the_file_names_of_aclimdb(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for folder_name, stars in (("neg", (1, 4, 2)), ("pos", (10, 7))):
            (tmp_path / split / folder_name).mkdir(parents=True)
            for i, rating in enumerate(stars):
                file = tmp_path / split / folder_name / f"{i}_{rating}.txt"
                file.write_text(f"a film, {split} {folder_name} {i}")
    by_stars = open_dataset(data(tmp_path, label_column="rating", **NUMBERS), 1)
    assert by_stars.splits["train"].labels[:, 0].tolist() == [1, 4, 2, 10, 7]
    assert by_stars.label_names == ("rating",)
    assert open_dataset(data(tmp_path, label_column="rating"), 1).label_names == (
        "1", "2", "4", "7", "10",
    )  # fmt: skip
    assert open_dataset(data(tmp_path), 1).label_names == ("neg", "pos")
    (line, *_) = mistakes(lambda: open_dataset(data(tmp_path, **MANY), 1).splits)
    assert "each class has files of its own" in line
    (tmp_path / "train" / "neg" / "other.txt").write_text("a film")
    lines = mistakes(lambda: open_dataset(data(tmp_path, label_column="rating"), 1).splits)
    assert "no column 'rating' (data.label_column)" in lines[0]


@pytest.mark.parametrize(("name", "rows", "words"), [
    ("lists.jsonl", [{"text": f"a film {i}", "label": ["x", "y"][: 1 + i % 2]} for i in range(20)],
     ["data.task=multi_label"]),
    ("topics.jsonl", [{"text": f"a film {i}", "topics": [["x"], ["y", "x"]][i % 2]}
                      for i in range(20)],
     ["data.label_column=topics", "data.task=multi_label"]),
    ("wide.csv", [{"text": f"a film, {i}", "a": i % 2, "b": i % 3 // 2, "c": i % 5 // 4}
                  for i in range(20)],
     ["data.task=multi_label", 'data.label_columns=["a", "b", "c"]']),
    ("text.csv", [{"text": f"a film {i}", "label": ["x", "y", "x,y"][i % 3]} for i in range(20)],
     ["data.task=multi_label", "data.label_delimiter=,"]),
    ("score.csv", [{"text": f"a film {i}", "score": i / 4} for i in range(20)],
     ["data.label_column=score", "data.task=regression"]),
])  # fmt: skip
def test_describe_suggests_the_task(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, rows: list[Any],
    words: Sequence[str],
) -> None:  # fmt: skip
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    folder(tmp_path, Path(name).suffix, **{Path(name).stem: columns})
    assert prepare.main([str(tmp_path / name), "--describe"]) == 0
    command = next(x for x in capsys.readouterr().out.splitlines() if "distsent.train" in x)
    given = shlex.split(command)[5:]
    encoder = "model.name=distilbert-base-uncased"
    assert given == [*words, "data.validation_fraction=0.1", encoder]
    assert open_dataset(load_job(None, shlex.split(command)[3:]).data, 1).splits
