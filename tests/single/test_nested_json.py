"""JSON of labeling tools and of services: columns inside of others, with the command in one try."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distsent.data.dataset import open_dataset
from distsent.data.diagnosis import with_keys
from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.job.schema import DataSection
from tests.dataset_files import mistakes, own_cache  # noqa: F401
from tests.public_files import sentence

pytestmark = pytest.mark.usefixtures("own_cache")

ROWS = [(sentence(i), ("pos", "neg")[i % 2]) for i in range(40)]


def studio(text: str, label: str) -> dict[str, Any]:
    """A task of Label Studio."""
    value = {"value": {"choices": [label]}, "from_name": "sentiment", "type": "choices"}
    return {"id": 1, "annotations": [{"id": 7, "result": [value]}], "data": {"text": text}}


SHAPES = {
    "Label Studio": (studio, "data.text", "annotations.0.result.0.value.choices.0"),
    "doccano": (lambda t, c: {"id": 1, "text": t, "label": [c]}, "text", "label.0"),
    "Prodigy": (lambda t, c: {"text": t, "accept": [c], "answer": "accept"}, "text", "accept.0"),
    "Vertex": (
        lambda t, c: {"classificationAnnotation": {"displayName": c}, "textContent": t},
        "textContent", "classificationAnnotation.displayName",
    ),
    "Mongo": (lambda t, c: {"text": t, "label": {"$oid": c}}, "text", "label.$oid"),
}  # fmt: skip


def fixed(section: DataSection) -> dict[str, Any]:
    """The keys that the error of a dataset shows."""
    with pytest.raises(UserError) as caught:
        open_dataset(section, 1)._content  # noqa: B018
    return caught.value.fix


@pytest.mark.parametrize("name", SHAPES)
def test_columns_inside_of_others_are_found_and_read(tmp_path: Path, name: str):
    make, text, label = SHAPES[name]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(make(*row)) + "\n" for row in ROWS))
    wanted = {"data.text_column": text, "data.label_column": label}
    section = DataSection(source=str(path), validation_fraction=0.1)
    default = {"data.text_column": "text"}
    assert default | fixed(section) == wanted
    for strict in (True, False):
        records = open_file(File(path, "x", strict=strict)).records([text, label])
        assert [(row[text], row[label]) for _, row, _ in records] == ROWS


def test_a_list_of_several_labels_is_a_bad_row_and_an_empty_one_has_no_label(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    values = [["a"], ["a", "b"], [], None]
    path.write_text("".join(json.dumps({"text": "x", "label": v}) + "\n" for v in values))
    records = [*open_file(File(path, "x")).records(["text", "label.0"])]
    assert [row["label.0"] for _, row, _ in records] == ["a", None, None, None]
    assert [bool(error) for *_, error in records] == [False, True, False, False]
    assert "column 'label.0': 2 values, of which one is read" in records[1][2]


def test_what_was_rejected_has_no_label(tmp_path: Path):
    row = {"text": "a", "label": "POS", "_input_hash": 1}
    rows = [row | {"answer": answer} for answer in ("accept", "reject", "ignore")]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (line,) = mistakes(lambda: [*open_file(File(path, "x", strict=True)).records(["text"])])
    assert line.startswith(
        "x, row 2: its label is not meant, as Prodigy's answer is 'reject'; grep"
    )
    for strict, columns in ((False, ["text"]), (True, ["text", "answer"])):
        records = open_file(File(path, "x", strict=strict)).records(columns)
        assert [error for *_, error in records] == ["", "", ""]


def test_a_page_of_the_hub_says_how_much_it_holds(tmp_path: Path):
    rows = [
        {"row_idx": i, "row": {"text": text, "label": label}, "truncated_cells": []}
        for i, (text, label) in enumerate(ROWS)
    ]
    page = {"features": [{"name": "text"}], "rows": rows, "num_rows_total": 4000}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(page))
    reader = open_file(File(path, "rows.json", strict=True))
    assert reader.rows == 40 and "a page of the 4,000 rows of a dataset" in reader.notes[0]
    rows[0]["truncated_cells"] = ["text"]
    path.write_text(json.dumps(page))
    (line,) = mistakes(lambda: open_file(File(path, "rows.json")))
    assert line.startswith("rows.json: 1 rows have values that the server cut; download")


def cats(make: Any) -> list[dict[str, Any]]:
    """As spaCy's training data: 0 or 1 for each class."""
    return [{"text": sentence(i), "cats": make(i)} for i in range(40)]


CATS: dict[str, tuple[Any, dict[str, Any], Any]] = {  # the objects, keys, the label of row i
    "one": (lambda i: {"a": int(i % 3 == 0), "b": int(i % 3 == 1), "c": int(i % 3 == 2)},
            {"data.label_column": "cats.0"}, lambda i: "abc"[i % 3]),
    "two, true": (lambda i: {"a": i % 2 == 0, "b": i % 2 == 1},
                  {"data.label_column": "cats.0"}, lambda i: "ab"[i % 2]),
    "sparse, floats": (lambda i: {"abc"[i % 3]: 1.0}, {"data.label_column": "cats.0"},
                       lambda i: "abc"[i % 3]),
    "numbers as names": (lambda i: {"0": i % 2, "1": 1 - i % 2}, {"data.label_column": "cats.0"},
                         lambda i: "10"[i % 2]),
    "several": (lambda i: {"a": i % 2, "b": 1, "c": int(i % 5 == 0)},
                {"data.label_column": "cats", "data.task": "multi_label"},
                lambda i: [x for x, y in zip("abc", (i % 2, 1, i % 5 == 0), strict=True) if y]),
}  # fmt: skip


@pytest.mark.parametrize("name", CATS)
def test_objects_of_0_and_1_are_the_names_that_are_1(tmp_path: Path, name: str) -> None:
    make, keys, label = CATS[name]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in cats(make)))
    section = DataSection(source=str(path), validation_fraction=0.1)
    fix = fixed(section)
    assert fix == keys
    content = open_dataset(with_keys(section, fix), 1)
    found = {}
    for split in content.splits.values():
        for text, labels in zip(split.texts(slice(None)), split.labels, strict=True):
            names = content.label_names
            several = [x for x, y in zip(names, labels, strict=True) if y] if labels.ndim else ""
            found[text] = several or names[labels]
    assert found == {sentence(i): label(i) for i in range(40)}


def test_scores_between_0_and_1_are_no_labels(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = cats(lambda i: {"a": i % 2, "b": 0.5 if i == 30 else 0, "c": i % 3 // 2})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = DataSection(source=str(path), validation_fraction=0.1)
    lines = mistakes(lambda: open_dataset(section, 1).splits)
    assert "no column 'label' (data.label_column); did you mean 'cats'? " in lines[0]
    assert lines[-1] == (
        'x.jsonl, row 1: column \'cats\': {"a": 0, "b": 0, "c": 0} holds scores, of which some '
        'are neither 0 nor 1; data.task = "regression" and data.label_columns = ["cats.a", '
        '"cats.b", "cats.c"] learn them'
    )
    columns = ("cats.a", "cats.b", "cats.c")
    scores = open_dataset(replace(section, task="regression", label_columns=columns), 1)
    assert sum(map(len, scores.splits.values())) == 40


def test_columns_inside_of_rows_that_are_lists(tmp_path: Path):
    """As spaCy's examples: [[text, {"cats": {class: 0 or 1}}], ...]."""
    rows = [["a film", {"cats": {"POS": 1, "NEG": 0}}], ["a plot", {"cats": {"POS": 0, "NEG": 1}}]]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows))
    reader = open_file(File(path, "x", strict=True))
    assert reader.columns == ["0", "1", "1.cats.POS", "1.cats.NEG", "1.cats", "1.cats.0"]
    wanted = ["0", "1.cats.POS", "1.cats.0"]
    found = [[*map(values.get, wanted)] for _, values, _ in reader.records(wanted)]
    assert found == [["a film", 1, "POS"], ["a plot", 0, "NEG"]]
