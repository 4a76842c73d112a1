"""prepare --describe: one screen, whose command and job file work; columns chosen by evidence."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from distsent import prepare
from distsent.data.dataset import open_dataset
from distsent.data.layouts.text_folder import TextFolder
from distsent.formats.column_choice import Column, choose_columns, is_labeled
from distsent.formats.column_errors import column_errors
from distsent.job import load_job
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection
from tests.dataset_files import own_cache, write  # noqa: F401
from tests.layouts import LAYOUTS, ROWS

pytestmark = pytest.mark.usefixtures("own_cache")

REVIEWS = {
    "id": [*map(str, range(40))],
    "Review Text": [f"the film number {i} was {'dull' if i % 2 else 'great'}" for i in range(40)],
    "airline": ["Delta" if i % 3 else "United" for i in range(40)],
    "sentiment": ["neg" if i % 2 else "pos" for i in range(40)],
}


def described(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str]]:
    capsys.readouterr()
    code = prepare.main([*map(str, words), "--describe"])
    return code, capsys.readouterr().out.splitlines()


def test_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "some reviews.csv", REVIEWS)
    code, lines = described(capsys, path)
    command = next(line for line in lines if "distsent.train" in line)
    assert code == 0 and len(lines) < 40
    for line in (
        "some reviews.csv: csv, delimiter ',', 40 rows",
        'text  => "Review Text": named "Review Text", mean length 6 words',
        'label => "sentiment": named "sentiment", distinct values 2 of 40',
        '         "airline": distinct values 2 of 40',
        "neg       18           2",
        "pos       18           2",
    ):
        assert line in lines, "\n".join(lines)
    assert shlex.split(command) == [
        "python", "-m", "distsent.train", "job.name=some-reviews", f"data.source={path}",
        "data.text_column=Review Text", "data.label_column=sentiment",
        "data.validation_fraction=0.1", "model.name=distilbert-base-uncased",
    ]  # fmt: skip
    job_file = tmp_path / "job.toml"
    job_file.write_text("\n".join(lines[lines.index("or with a job file:") + 1 :]))
    assert load_job(job_file) == load_job(None, shlex.split(command)[3:])


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_command_reads_every_layout(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = LAYOUTS[name]
    source = layout.make(tmp_path / "in")
    keys = [f"data.{key}={to_toml_value(value)}" for key, value in layout.keys.items()]
    code, lines = described(capsys, f"data.source={source}", *keys)
    assert code == 0, "\n".join(lines)
    command = next(line for line in lines if "distsent.train" in line)
    section = load_job(None, shlex.split(command)[3:]).data
    found = sum(map(len, open_dataset(section, 1).splits.values()))
    parts = ["train"] if "test_fraction" in layout.keys else ["train", "test"]
    rows = layout.rows or {split: ROWS[split] for split in parts}
    assert found == sum(map(len, rows.values()))


def test_what_cannot_be_read_ends_with_what_to_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\n" + "".join(f"a film {i}\t{'ab'[i % 2]}\n" for i in range(20))
                    + '"one part\ta\nthe other part"\tb\n')  # fmt: skip
    code, lines = described(capsys, path)
    assert code == 0 and any("or with data.quoting=csv" in line for line in lines)
    rows = [{"text": f"a {i}", "label": [["x", "y"], ["x"]]} for i in range(20)]
    (tmp_path / "lists.json").write_text(json.dumps(rows))
    code, lines = described(capsys, tmp_path / "lists.json")
    assert code == 2 and lines[-1] == "not ready to train: see the problems"
    assert any("a list within a list" in line for line in lines)


@pytest.mark.parametrize(("header", "text", "label", "pair"), [
    ("id,qid1,question1,question2,is_duplicate", "question1", "is_duplicate", "question2"),
    ("Quality,#1 ID,#2 ID,#1 String,#2 String", "#1 String", "Quality", "#2 String"),
    ("tweet_id,airline_sentiment,airline_sentiment_confidence,name,text,tweet_coord", "text",
     "airline_sentiment", None),
    (",Clothing ID,Age,Title,Review Text,Rating,Class Name", "Review Text", "Rating", None),
    ("annotator_labels,gold_label,pairID,sentence1,sentence1_parse,sentence2", "sentence1",
     "gold_label", "sentence2"),
    ("index,sentence1,sentence2,label1,label2,gold_label", "sentence1", "gold_label", "sentence2"),
    ("Texas,sentiment,category_id", None, "sentiment", None),
    ("v1,v2", "v2", "v1", None),
])  # fmt: skip
def test_names_tell_what_columns_are(
    header: str, text: str | None, label: str, pair: str | None
) -> None:
    found = choose_columns([*map(Column, header.split(","))], pair=True)
    assert [found.get(f"data.{role}_column") for role in ("text", "label", "pair")] == [
        text, label, pair,
    ]  # fmt: skip


def test_several_columns_of_0_and_1_are_no_single_label() -> None:
    columns = [*map(Column, ("comment", "toxic", "obscene", "threat"))]
    columns[0].add([f"some comment {i}" for i in range(40)])
    for column in columns[1:]:
        column.add(["0", "1", "0", "0"] * 10)
    assert choose_columns(columns) == {"data.text_column": "comment"}
    wanted = {"data.text_column": "comment", "data.label_column": "label"}
    lines, fix = column_errors("train.csv", wanted, columns)
    assert (lines, fix) == (
        ["train.csv: no column 'label' (data.label_column); toxic, obscene, threat are 0 or 1: "
         'several labels per text, read with data.task = "multi_label" and data.label_columns; '
         "there are comment, toxic, obscene, threat"],
        {"data.task": "multi_label", "data.label_columns": ["toxic", "obscene", "threat"]},
    )  # fmt: skip


@pytest.mark.parametrize(("name", "values", "labeled"), [
    ("subject", ("ab", "ab"), False),
    ("label", ("ab", "ab"), True),
    ("label", ("ab", "cd"), False),
    ("CLASS", ("01", "01"), True),
])  # fmt: skip
def test_files_of_classes_have_no_column_of_labels(
    name: str, values: tuple[str, str], labeled: bool
) -> None:
    files = []
    for some in values:
        columns = [Column("text"), Column(name)]
        columns[0].add([f"some text {i}" for i in range(40)])
        columns[1].add([*some] * 20)
        files.append(columns)
    assert is_labeled(files) == labeled


def test_folders_of_texts_are_labeled_file_by_file(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt"):
        (tmp_path / "texts" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "texts" / name).write_text(f"text of {name}\nin two lines")
    found = [
        (one.file, one.text, one.error) for one in TextFolder(tmp_path / "texts", DataSection())
    ]
    assert found == [
        ("texts/a.txt", "text of a.txt\nin two lines", ""),
        ("texts/b.txt", "text of b.txt\nin two lines", ""),
    ]
    write(tmp_path / "tables" / "part-00000-of-00002.csv", {"text": ["a", "b"]})
    write(tmp_path / "tables" / "part-00001-of-00002.csv", {"text": ["c"]})
    texts = [*TextFolder(tmp_path / "tables", DataSection())]
    assert [one.text for one in texts] == ["a", "b", "c"]


def test_files_of_a_folder_that_are_not_labeled_are_named(tmp_path: Path) -> None:
    for name in ("texts/a.txt", "texts/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a text")
    write(tmp_path / "tables" / "test.csv", {"text": ["a", "b"]})
    write(tmp_path / "tables" / "reviews2.csv", {"text": ["c"]})
    shard = tmp_path / "shards" / "part-0000{}-of-00002.csv"
    write(Path(str(shard).format(0)), {"text": ["a", "b"]})
    write(Path(str(shard).format(1)), {"text": ["c\0"]})
    found = {
        path.name: TextFolder(path, DataSection()).read_as.notes
        for path in map(tmp_path.joinpath, ("texts", "tables", "shards"))
    }
    assert found == {
        "texts": ("not read: notes.txt",),
        "tables": ("not read: reviews2.csv",),
        "shards": ("part-00001-of-00002.csv: 1 NUL character, read as in the file",),
    }
