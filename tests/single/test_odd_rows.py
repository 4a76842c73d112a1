"""First and last rows that hardly belong to the data: refused, noted or read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distsent.data.dataset import open_dataset
from distsent.errors import UserError
from tests.dataset_files import data, write

TEXT = "the plot of film {} was not so bad"
ROWS = [(TEXT.format(i), ("pos", "neg")[i % 2]) for i in range(30)]
NUMBERS = [(text, str(i % 3)) for i, (text, _) in enumerate(ROWS)]
RARE = [*ROWS, (TEXT.format(30), "mixed"), (TEXT.format(31), "mixed"), ("so", "odd")]


def table(path: Path, rows: list[tuple[str, str]]) -> Path:
    return write(path, {"text": [text for text, _ in rows], "label": [label for _, label in rows]})


ODD = {
    "SurveyMonkey's second header": ("Open-Ended Response", "Response", 0),
    "a MultiIndex of pandas": ("value", "first", 0),
    "units": ("(string)", "(class)", 0),
    "a total": ("Total", "30", 30),
    "a comment": ("# exported on 2024-01-01 by someone", " of us", 30),
}


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_row_of_another_kind_is_refused_with_a_way_out(name: str, suffix: str, tmp_path: Path):
    text, label, place = ODD[name]
    rows = [*ROWS[:place], (text, label), *ROWS[place:]]
    job = data(table(tmp_path / f"x{suffix}", rows), validation_fraction=0.2)
    with pytest.raises(UserError, match=f"x{suffix}, row {place + 1}, ") as error:
        open_dataset(job, 1).read()
    assert error.value.fix == {"data.drop_labels": [label]}
    keys = {key.removeprefix("data."): value for key, value in error.value.fix.items()}
    found = open_dataset(data(job.source, validation_fraction=0.2, **keys), 1)
    assert sum(map(len, found.splits.values())) == 30 and found.label_names == ("neg", "pos")
    kept = data(job.source, validation_fraction=0.2, labels=("pos", "neg", label))
    assert sum(map(len, open_dataset(kept, 1).splits.values())) == 31


GOOD: dict[str, tuple[list[tuple[str, str]], str]] = {
    "a class of one row, with a text like others": (
        [*ROWS, (TEXT.format(30), "mixed")],
        'row 31, "the plot of film 30 was not so bad": no other row has its label, "mixed"; does'),
    "classes of few rows": (RARE, ""),
    "an odd text of a frequent class": ([("so", "pos"), *ROWS], ""),
    "a number among others": ([*NUMBERS, ("Total", "2")], ""),
    "a class of one row in the midst": ([*ROWS[:9], ("so", "odd"), *ROWS[9:]], ""),
    "few rows": ([*ROWS[:12], ("so", "odd")], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD)
def test_rows_that_may_belong_to_the_data_are_read(name: str, tmp_path: Path):
    rows, note = GOOD[name]
    found = open_dataset(data(table(tmp_path / "x.csv", rows), validation_fraction=0.2), 1)
    assert sum(map(len, found.splits.values())) == len(rows)
    notes = [line for line in found.find_warnings() if "no other row" in line]
    assert note in "".join(notes) and len(notes) == bool(note)


def test_files_of_a_survey_with_two_headers_each(tmp_path: Path):
    odd: Any = ("Open-Ended Response", "Response")
    for split in ("train", "test"):
        table(tmp_path / f"{split}.csv", [odd, *ROWS])
    with pytest.raises(UserError) as error:
        open_dataset(data(tmp_path), 1).read()
    assert [line.partition(",")[0] for line in error.value.lines] == ["train.csv", "test.csv"]
