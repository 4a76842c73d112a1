"""Which class a label means: values, spelling, names; and what is refused."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsent.data.labels.classes import DROPPED, MISSING, UNKNOWN, UNLABELED, Labels, read_labels
from distsent.data.labels.label_table import class_table
from distsent.data.labels.names import Naming
from distsent.data.labels.values import label_error, normalize_label
from distsent.data.rows import Columns, Part, Rows
from distsent.errors import UserError
from tests.dataset_files import mistakes

COLUMNS = Columns("text", None, "label")
FEEL = ("neg", "neu", "pos")


def rows(values: Any, name: str = "train.csv", names: tuple[str, ...] | None = None) -> Rows:
    return Rows([Part(name, pa.table({"label": values}), names)], COLUMNS)


def read(
    values: Any,
    labels: Any = None,
    fold: str | bool = "auto",
    test: Any = (),
    names: tuple[str, ...] | None = None,
    drop: Sequence[str] = (),
    **naming: Any,
) -> Labels:
    splits = {"train": rows(values, names=names)}
    if len(test):
        splits["test"] = rows(test, "test.csv", names)
    return read_labels(splits, naming.get("naming") or Naming.of_job(labels, None), fold, drop)


def refusal(*arguments: Any, **keys: Any) -> str:
    (line,) = mistakes(lambda: read(*arguments, **keys))
    return line


# which values are labels


@pytest.mark.parametrize(
    ("values", "names", "indices"),
    [
        ([1, 2, 1, 2], "1 2", [0, 1, 0, 1]),
        (pa.array([Decimal("1.0"), Decimal("2.0")] * 2), "1 2", [0, 1, 0, 1]),
        (pa.array(["b", "a", "b"], pa.string_view()), "a b", [1, 0, 1]),
        (pa.array(["b", "a", "b"]).dictionary_encode(), "a b", [1, 0, 1]),
        ([0.0, math.nan, 1.0, 0.0, 1.0], "0 1", [0, MISSING, 1, 0, 1]),
        (["a", "", " \t", "\u200b", None, "b", "a"], "a b", [0, *[MISSING] * 4, 1, 0]),
        (["01", "02", "01"], "01 02", [0, 1, 0]),
        (["+1", "-1", "+1"], "+1 -1", [0, 1, 0]),
        ([0, 1, -1, 1, 0], "0 1", [0, 1, UNLABELED, 1, 0]),
        (["nan", "a", "a"], "a nan", [1, 0, 0]),
        ([None, None], "", [MISSING] * 2),
    ],
)
def test_values_that_are_labels(values: Any, names: str, indices: list[int]):
    found = read(values)
    assert (" ".join(found.names), found.indices["train"].tolist()) == (names, indices)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([["joy"], ["joy", "fear"]],
         'row 1: column \'label\' (list<item: string>): ["joy"]: several labels need data.task = '
         '"multi_label"'),
        ([None, {"a": 1}],
         'row 2: column \'label\' (struct<a: int64>): {"a": 1} is not a label: expected a word or '
         "an integer"),
        ([datetime.date(2020, 1, 1)],
         'row 1: column \'label\' (date32[day]): "2020-01-01" is not a label: expected a word or '
         "an integer"),
        ([1.0, math.inf, 0.0], "row 2: column 'label': inf is not a label"),
        (pa.array([b"fine", None, b"caf\xe9"], pa.binary()).view(pa.string()),
         "row 3: column 'label': the label is not UTF-8 (byte 0xe9)"),
    ],
)  # fmt: skip
def test_values_that_are_not_labels(values: Any, line: str):
    assert refusal(values) == f"train.csv, {line}"


@pytest.mark.parametrize(
    ("value", "word"),
    [(1, "1"), (1.0, "1"), ("1.0", "1"), ("1.00", "1"), (True, "true"), (2**70, str(2**70)),
     (0.5, "0.5"), ("1.5", "1.5"), ("007", "007"), (" a", " a"), (None, None), ("", None),
     ("  ", None), (math.nan, None), ("nan", "nan")],
)  # fmt: skip
def test_labels_as_text(value: Any, word: str | None):
    assert (label_error(value), normalize_label(value)) == ("", word)


def test_words_for_a_missing_value_are_words_and_named():
    found = read(["NA", "a", "b", "NA", "none", "a"])
    assert found.names == ("NA", "a", "b", "none")
    assert found.notes == [
        f"train.csv: column 'label': {n} with the label {word!r}: is it a missing value? "
        f'data.drop_labels = ["{word}"] leaves them out'
        for n, word in (("2 rows", "NA"), ("1 row", "none"))
    ]
    assert read(["NA", "a", "NA", "a"], ["a", "NA"]).notes == []  # named, so meant


D = DROPPED


@pytest.mark.parametrize(
    ("values", "keys", "names", "indices"),
    [
        (["a", "-", "b", "-"], {"drop": ["-"]}, "a b", [0, D, 1, D]),
        ([3, 1, 2, 1], {"drop": ["1.0"]}, "2 3", [1, D, 0, D]),
        ([1, -1, 2, 1], {"drop": ["-1"]}, "1 2", [0, D, 1, 0]),
        (["a", "N", "b", " n"], {"drop": ["n"], "fold": True}, "a b", [0, D, 1, D]),
        (["1", "-", "2"], {"drop": ["-"], "labels": {"1": "x", "2": "y"}}, "x y", [0, D, 1]),
        (["a", "-", "b"], {"drop": ["-"], "labels": ["b", "a"]}, "b a", [1, D, 0]),
        ([0, 1, 2, -1], {"drop": ["neu"], "names": FEEL}, "neg pos", [0, D, 1, UNLABELED]),
        ([0, 1, 2, -1], {"drop": ["0", "-1"], "names": FEEL}, "neu pos", [D, 0, 1, D]),
        ([0, 1, 2], {"drop": ["1"], "names": FEEL, "labels": {"0": "x", "2": "y"}}, "x y",
         [0, D, 1]),
        ([0, 2, 1], {"drop": ["neu"], "naming": Naming((), numbered=FEEL)}, "neg pos", [0, 1, D]),
        (["a", "-", "b"], {"drop": ["-", "?"], "naming": Naming(("a", "b"), trained=True)}, "a b",
         [0, D, 1]),
    ],
)  # fmt: skip
def test_labels_that_are_left_out(values: Any, keys: dict, names: str, indices: list[int]):
    found = read(values, **keys)
    assert found.names == tuple(names.split())
    assert found.indices["train"].tolist() == indices
    assert found.notes == []


def test_labels_that_cannot_be_left_out():
    assert refusal(["a", "b"], drop=["c", "a"]) == (
        "data.drop_labels = [\"c\", \"a\"]: train.csv: column 'label' does not contain 'c', but "
        "'a', 'b'"
    )
    assert refusal(["caf\xe9", "b"], drop=["cafe\u0301"]).endswith(
        "; 'cafe\\u0301' and 'caf\\xe9' differ in white space, case, Unicode form or leading zeros "
        "alone"
    )
    assert refusal(["a", "b", "c"], ["a", "b"], drop=["a"]) == (
        "data.drop_labels = [\"a\"]: data.labels names 'a', too"
    )


def test_marks_among_words_are_not_trained_without_a_word():
    with pytest.raises(UserError) as error:
        read(["a", "-", "b", "?", "-"])
    assert str(error.value) == (
        "train.csv: column 'label': 3 rows with the label '-', '?' among words; data.drop_labels = "
        '["-", "?"] leaves them out, data.labels with it makes it a class'
    )
    assert error.value.fix == {"data.drop_labels": ["-", "?"]}
    (other,) = error.value.others
    assert read(["a", "-", "b", "?", "-"], other["data.labels"]).names == ("-", "?", "a", "b")
    for values in (["+", "-", "+"], ["\N{SNOWMAN}", "sun", "sun"], ["c++", "c", "c#"]):
        assert read(values).notes == []


@pytest.mark.parametrize(
    ("values", "marks", "among"),
    [
        (["pos", "-1", "neg", "-1"], ["-1"], "words"),
        (["pos", "-1", "neg", "-"], ["-", "-1"], "words"),
        (["yes", "no", "-1.0", "NA"], ["-1", "NA"], "truth values"),
    ],
)
def test_minus_one_among_words_is_not_trained_without_a_word(values, marks, among):
    with pytest.raises(UserError) as error:
        read(values)
    shown = ", ".join(map(repr, marks))
    assert f"2 rows with the label {shown} among {among}; data.drop_labels = " in str(error.value)
    assert error.value.fix == {"data.drop_labels": marks}
    (other,) = error.value.others
    assert set(marks) < set(read(values, other["data.labels"]).names)


@pytest.mark.parametrize(
    "values",
    [["0", "1", "nan", "0"], ["1.5", "N/A", "2"], ["0", "NA", "1", "0"], ["yes", "NA", "no"]],
)
def test_words_for_a_missing_value_among_numbers_are_not_trained_without_a_word(values):
    (word,) = {*values} & {"nan", "N/A", "NA"}
    among = "truth values" if "yes" in values else "numbers"
    assert f"1 row with the label '{word}' among {among}; data.drop_labels = " in refusal(values)
    names = sorted({*values})
    assert read(values, names).names == tuple(names)


@pytest.mark.parametrize(
    ("values", "table"),
    [
        (
            ["0", "True", "1", "False"],
            '{ 0 = "False", 1 = "True", False = "False", True = "True" }',
        ),
        (["yes", "1", "0", "yes"], '{ 0 = "0", 1 = "yes", yes = "yes" }'),
        (["Y", "-1", "0", "N"], '{ 0 = "N", N = "N", Y = "Y" }'),
    ],
)
def test_numbers_and_words_of_truth_are_not_four_classes(values, table):
    with pytest.raises(UserError) as error:
        read(values)
    assert f"may mean the same: data.labels = {table} names two classes" in str(error.value)
    assert len(read(values, error.value.fix["data.labels"]).names) == 2
    for fine in (["yes", "no"], [0, 1], ["yes", "1", "2"], ["true", "maybe", "1"]):
        assert read(fine).notes == []


def test_labels_that_may_be_several_are_named():
    (note,) = read(["a|b", "b|c", "a| c"]).notes
    assert note.endswith('"multi_label" and data.label_delimiter = "|" read them')
    assert read(["a|b", "b|c", "a|d"]).notes == read(["a|b", "b|a"]).notes == []


def test_numbers_of_16_bits_are_labels():
    assert read(pa.array(np.array([0, 1, math.nan], "float16"))).names == ("0", "1")


def test_ids_and_texts_are_named():
    ids = [f"id {i}" for i in range(30)]
    (note,) = read(ids, test=ids[:20]).notes
    assert note.startswith("train.csv, test.csv: column 'label': 30 different values in 50 rows (")
    assert note.endswith(" look like a text or an id column: are they classes?")
    assert read(["a", "b"] * 20).notes == []
    assert read([f"id {i % 15}" for i in range(40)]).notes == []


# labels that are nearly equal

NEAR = [
    (["a", " a", "b", "b ", "b"], "'a' (1 row)"),
    (["Pos", "pos", "neg"], "'Pos' (1 row)"),
    (["\ufb01n", "fin", "x"], "'\\ufb01n' (1 row)"),
    (["e\u0301", "\xe9", "x"], "'e\\u0301' (1 row)"),
    (["a\u200b", "a", "x"], "'a' (1 row)"),
    (["a b", "a\u00a0 b", "x"], "'a b' (1 row)"),
    (["01", "1", "2"], "'01' (1 row)"),
    (["+1", "1", "2"], "'+1' (1 row)"),
    (["1.50", "1.5", "2"], "'1.50' (1 row)"),
    (["True", "true", "false"], "'True' (1 row)"),
    (["0", "-0", "1"], "'-0' (1 row)"),
    (["\u2764\ufe0f", "\u2764", "x"], "(1 row)"),
    (["\u0130yi", "iyi", "x"], "(1 row)"),
    (["KIZGIN", "k\u0131zg\u0131n", "x"], "(1 row)"),
]


@pytest.mark.parametrize(("values", "shown"), NEAR)
def test_nearly_equal_labels_are_never_classes_of_their_own_silently(values, shown):
    line = refusal(values)
    spelling = "white space, case, Unicode form or leading zeros"
    assert shown in line and line.endswith(
        f"differ in {spelling} alone; data.fold_labels = true makes them one class, false keeps "
        "them apart"
    )
    if not any(value.endswith("50") for value in values):
        apart = read(values, fold=False)
        assert len(apart.names) == len(set(values))
        assert apart.notes[0].endswith("alone; they are different classes")
        one = read(values, fold=True)
        assert len(one.names) == 2 and one.notes[0].endswith("; each counts as the first")


@pytest.mark.parametrize("values", [["a", "b", "ab"], ["ß", "z"], ["10", "1"], ["0", "-1", "1"],
                                    ["1", "1.5"], ["a", "á"], ["résumé", "resume"]])  # fmt: skip
def test_different_labels_are_not_nearly_equal(values):
    names = tuple(values) if "1.5" in values else None
    assert len(read(values * 2, names).names) == len({*values} - {"-1"})


def test_the_most_frequent_spelling_names_the_class():
    found = read([" pos", "Pos", "Pos", "neg", "NEG", " pos", " pos"], fold=True)
    assert (found.names, found.indices["train"].tolist()) == (("NEG", "pos"), [1, 1, 1, 0, 0, 1, 1])
    assert found.values == {" pos": "pos", "Pos": "pos", "pos": "pos", "neg": "NEG", "NEG": "NEG"}
    named = read(["POS", "Pos", "Pos", "neg"], ["pos", "neg"], fold=True)
    assert (named.names, named.indices["train"].tolist()) == (("pos", "neg"), [0, 0, 0, 1])


def test_names_in_the_job_decide_between_nearly_equal_labels():
    values = ["Pos", "pos", "neg"]
    assert read(values, ["Pos", "pos", "neg"]).indices["train"].tolist() == [0, 1, 2]
    assert "'pos' (data.labels) and 'Pos' (2 rows)" in refusal(
        ["Pos", "neg", "Pos"], ["neg", "pos"]
    )
    line = refusal(["POS", "Pos", "pos", "neg"], ["Pos", "pos", "neg"], fold=True)
    assert line.endswith("data.labels names more than one of them")


# names for numbers


@pytest.mark.parametrize(
    ("values", "labels", "indices", "note"),
    [
        ([0, 1, 2, 0], FEEL, [0, 1, 2, 0], ""),
        ([0, 2, 0, 2], FEEL, [0, 2, 0, 2], ""),
        ([0, 1, -1, 2], FEEL, [0, 1, UNLABELED, 2], ""),
        ([1, 2, 3, 1], FEEL, [0, 1, 2, 0], "1 = neg, 2 = neu, 3 = pos"),
        (["1", "3", "2", "1"], FEEL, [0, 2, 1, 0], "1 = neg, 2 = neu, 3 = pos"),
        ([-1, 1, 0, 1], FEEL, [0, 2, 1, 2], "-1 = neg, 0 = neu, 1 = pos"),
        ([1, -1, 1, -1], ("bad", "good"), [1, 0, 1, 0], "-1 = bad, 1 = good"),
        ([4, 0, 4, 0], ("bad", "good"), [1, 0, 1, 0], "0 = bad, 4 = good"),
        ([10, 9, 100, 9], FEEL, [1, 0, 2, 0], "9 = neg, 10 = neu, 100 = pos"),
        ([0.5, 2.0, 1.5], FEEL, [0, 2, 1], "0.5 = neg, 1.5 = neu, 2 = pos"),
        (["+1", "-1", "+1"], ("bad", "good"), [1, 0, 1], "-1 = bad, +1 = good"),
        (["02", "01", "02"], ("bad", "good"), [1, 0, 1], "01 = bad, 02 = good"),
        ([3, 1, 2], ("3", "2", "1"), [0, 2, 1], ""),
        ([1, 2, 1], {"1": "World", "2": "Sports"}, [0, 1, 0], ""),
        ([2.0, 1.0], {"2.0": "World", "1": "Sports"}, [0, 1], ""),
        ([0, 1, 0], {"0": "1", "1": "0"}, [0, 1, 0], ""),
        (["p", "n"], {"p": "positive", "n": "negative"}, [0, 1], ""),
        ([1, 2, 7], {"1": "World", "2": "Sports"}, [0, 1, UNKNOWN], ""),
        ([-1, 0, 1], {"-1": "no", "1": "yes", "0": "so so"}, [0, 2, 1], ""),
    ],
)  # fmt: skip
def test_names_for_values(values, labels, indices, note):
    found = read(values, labels)
    assert found.indices["train"].tolist() == indices
    assert found.notes == ([f"train.csv: column 'label': {note}"] if note else [])
    for value, index in zip(values, indices, strict=True):
        if index >= 0:
            assert found.values[normalize_label(value) or ""] == found.names[index]


@pytest.mark.parametrize(
    ("values", "labels", "words"),
    [
        ([1, 2, 5, 7], FEEL, ["contains '1', '2', '5', '7' and data.labels has 3 names",
                              'data.labels = { "1" = "...", "2" = "...", ... } names each value']),
        ([1, 2], FEEL, ["contains '1', '2' and data.labels has 3 names (neg, neu, pos)"]),
        ([0, 1, 7, -3], ("neg", "pos"), ["contains '-3', '0', '1', '7' and data.labels has 2 "]),
        ([0, 1, 2, 3, 4], ("1", "2", "3", "4", "5"), ["contains '0', '1', ", "names '1', '2', "]),
        (["neg", "pos"], ("a", "b"), ["names ('a', 'b') occurs; it contains 'neg', 'pos'; data."]),
        ([5, 6], {"1": "a", "2": "b"}, ["names ('1', '2') occurs; it contains '5', '6'"]),
        ([1, 2, 1], {"1": "a", "1.0": "b"}, ["two of these are the same label"]),
        ([1, 2, 1], ("1", "1.0"), ["two of these are the same label"]),
        (["x" * 3000, "y" * 500], ("a", "b"), [f"'{'x' * 37}...', '{'y' * 37}...'"]),
        ([".5", "1."], None, ["contains numbers such as .5 ('.5', '1')"]),
        (["1E3", "2"], None, ["contains numbers such as 1E3 ('2', '1E3')"]),
        ([0.25, 1.0], None, ["contains numbers such as 0.25 ('0.25', '1')"]),
    ],
)  # fmt: skip
def test_values_without_a_certain_name_are_refused(values, labels, words):
    line = refusal(values, labels)
    assert all(word in line for word in words), line
    assert "drop_bad_rows" not in line and len(line) < 400


def test_a_split_of_minus_ones_has_no_labels():
    """GLUE publishes its test sets so: -1 is no fourth value for four names."""
    four = read([0, 1, 2, 0], ("a", "b", "c", "d"), test=[-1] * 4)
    assert four.names == ("a", "b", "c", "d") and set(four.indices["test"]) == {UNLABELED}
    assert four.notes == [] and four.indices["train"].tolist() == [0, 1, 2, 0]


@given(
    numbers=st.sets(st.integers(-5, 50), min_size=2, max_size=8),
    order=st.randoms(use_true_random=False),
    kind=st.sampled_from([int, float, str]),
)
def test_numbers_are_named_in_the_order_of_their_value_or_not_at_all(numbers, order, kind):
    """An oracle without cases: whatever is accepted must be increasing in the value."""
    names = tuple("abcdefgh"[: len(numbers)])
    values = [*numbers, *numbers]
    order.shuffle(values)
    found = read([kind(value) for value in values], names)
    by_value = sorted(numbers)
    assert found.indices["train"].tolist() == [by_value.index(value) for value in values]
    assert {int(v): n for v, n in found.values.items()} == dict(zip(by_value, names, strict=True))


# classes that a file itself names, and those of a trained model


def test_a_table_renames_the_classes_of_a_file():
    splits = {"train": rows([0, 1, 1], names=("neg", "pos"))}
    for table in ({"neg": "bad", "pos": "good"}, {"0": "bad", "1": "good"}):
        found = read_labels(splits, Naming.of_job(table, None), "auto")
        assert (found.names, found.indices["train"].tolist()) == (("bad", "good"), [0, 1, 1])
        assert found.values == {"neg": "bad", "pos": "good"}
    naming = Naming.of_job({"neg": "bad", "neutral": "good"}, None)
    (line,) = mistakes(lambda: read_labels(splits, naming, "auto"))
    assert line.endswith("data.labels = bad, good: the classes are neg, pos")


TRAINED = [  # names, what they meant in training, values of another file, their classes
    (FEEL, {"1": "neg", "2": "neu", "3": "pos"}, [1, 3], [0, 2]),
    (FEEL, {"1": "neg", "2": "neu", "3": "pos"}, ["pos", "neg"], [2, 0]),
    (FEEL, {"-1": "neg", "0": "neu", "1": "pos"}, [0, 1, 0], [1, 2, 1]),
    (FEEL, {"0": "neg", "1": "neu", "2": "pos"}, [1, 2], [1, 2]),
    (FEEL, {name: name for name in FEEL}, ["neu", "neu"], [1, 1]),
    (FEEL, {name: name for name in FEEL}, [0, 2], [0, 2]),
    (FEEL, None, [0, 1, 2], [0, 1, 2]),
    (FEEL, None, [1, 2, 3], [0, 1, 2]),
    (("b", "a"), {"a": "a", "b": "b"}, ["a", "b"], [1, 0]),
    (("1", "2", "3"), {"1": "1", "2": "2", "3": "3"}, [3, 1], [2, 0]),
    (("1", "0"), {"0": "1", "1": "0"}, [0, 1], [0, 1]),
    (("bad", "good"), {"neg": "bad", "pos": "good"}, ["pos", "bad"], [1, 0]),
    (("a", "b"), {"a": "a", " a": "a", "b": "b"}, [" a", "b"], [0, 1]),
]


@pytest.mark.parametrize(("names", "values", "other", "indices"), TRAINED)
def test_a_trained_model_reads_values_as_in_training(
    names: Sequence[str], values: Mapping[str, str] | None, other: Sequence, indices: list[int]
):
    found = read(other, naming=Naming.of_model(names, values))
    assert (found.names, found.indices["train"].tolist()) == (tuple(names), indices)


@pytest.mark.parametrize(
    ("names", "values", "other"),
    [
        (
            FEEL,
            {"1": "neg", "2": "neu", "3": "pos"},
            [0, 1, 2],
        ),  # one less each: all would be wrong
        (FEEL, {"1": "neg", "2": "neu", "3": "pos"}, [0]),
        (FEEL, {name: name for name in FEEL}, [1, 2]),
        (("1", "2", "3"), {"1": "1", "2": "2", "3": "3"}, [0, 1, 2]),
        (("1", "2", "3"), {"1": "1", "2": "2", "3": "3"}, [0]),
        (("b", "a"), {"a": "a", "b": "b"}, ["A", "b"]),
        (FEEL, {name: name for name in FEEL}, ["x", "y"]),
    ],
)
def test_a_trained_model_refuses_values_that_may_mean_something_else(names, values, other):
    assert refusal(other, naming=Naming.of_model(names, values))


def test_a_trained_model_does_not_take_other_names_by_their_position():
    splits = {"test": rows([0, 1], names=("positive", "negative"))}
    naming = Naming.of_model(("neg", "pos"), {"neg": "neg", "pos": "pos"})
    (line,) = mistakes(lambda: read_labels(splits, naming, "auto"))
    assert line.endswith("the classes are positive, negative")
    swapped = {"test": rows([0, 1], names=("pos", "neg"))}
    assert read_labels(swapped, naming, "auto").indices["test"].tolist() == [1, 0]


# the table of classes


def test_the_class_table_shows_twenty_classes_and_counts_the_rest():
    names = [f"class {i}" for i in range(62)]
    lines = class_table(names, {"train": [1000] * 62, "test": [i % 2 for i in range(62)]})
    assert lines[:2] == ["class         train  test", "class 0       1,000     0"]
    assert lines[21:] == ["and 42 more  42,000    21"] and len(lines) == 22
    assert class_table([" a", "b" * 50], {"test": [1, 2]}) == [
        f"class{' ' * 35}  test",
        f"' a'{' ' * 36}     1",
        f"{'b' * 37}...     2",
    ]
