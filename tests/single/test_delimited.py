"""Delimited text as public datasets have it, read to the row or refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from tests.dataset_files import mistakes
from tests.public_files import FILES, sentence

Rows = dict[int, dict[str, str]]


def read(path: Path, strict: bool = True, **keys: Any) -> tuple[Rows, str]:
    """The rows of a file, and what is said of it."""
    reader = open_file(File(path, path.name, FileOptions(**keys), strict))
    said = "; ".join([reader.read_as.line(), *reader.read_as.notes])
    return {row: values for row, values, _ in reader.records(reader.columns or [])}, said


@pytest.mark.parametrize("name", FILES)
def test_a_public_file_is_read_or_says_which_key_reads_it(tmp_path: Path, name: str):
    file = FILES[name]
    path = tmp_path / name
    path.write_bytes(file.content.encode(file.encoding))
    if file.refused:
        known = {} if "not UTF-8" in file.refused else {"encoding": file.encoding}
        keys = known if file.rows else file.keys
        assert file.refused in "\n".join(mistakes(lambda: read(path, **keys)))
    if not file.rows:
        return
    rows, said = read(path, **file.keys)
    assert rows == read(path, strict=False, **file.keys)[0]
    assert len(rows) == file.rows
    for row, values in file.has.items():
        assert {name: rows[row][name] for name in values} == values
    assert file.said in said


def write(path: Path, content: str) -> Path:
    path.write_text(content, newline="")
    return path


def test_two_quotes_far_apart_never_make_one_row_of_many(tmp_path: Path):
    rows = "".join(f"{sentence(i)}\t{'ab'[i % 2]}\n" for i in range(9))
    content = f'text\tlabel\n{rows}"opened\ta\n{rows}one\ttab too many\tb\n{rows}closed"\ta\n'
    path = write(tmp_path / "x.tsv", content)
    for strict in (True, False):
        (line,) = mistakes(lambda strict=strict: read(path, strict))
        assert 'data.quoting = "csv" reads 10 rows, "none"' in line


@pytest.mark.parametrize(
    ("mark", "signs"), [("|", "!"), ("|", "\b"), ("|", "-_-"), ("||", ""), (" ||| ", "")]
)
def test_signs_that_end_each_text_are_no_part_of_the_delimiter(
    tmp_path: Path, mark: str, signs: str
):
    lines = (f"{sentence(i)}{signs}{mark}{'ab'[i % 2]}\n" for i in range(9))
    path = write(tmp_path / "x.txt", f"text{signs}{mark}label\n{''.join(lines)}")
    rows, _ = read(path, format="csv")
    assert [row[f"text{signs}"] for row in rows.values()] == [
        f"{sentence(i)}{signs}" for i in range(9)
    ]


def test_a_delimiter_in_quotes_does_not_hide_the_blank_after_another(tmp_path: Path):
    path = write(tmp_path / "x.csv", '"good;bad"; "label"\n' + '"a"; "pos"\n' * 9)
    rows, _ = read(path)
    assert rows[9] == {"good;bad": "a", "label": "pos"}


def test_what_a_run_has_read_decides_what_a_file_leaves_open(tmp_path: Path):
    open_ = write(tmp_path / "x.csv", 'text,label\nplain,a\n"Nice",b\n')
    clear = write(tmp_path / "y.csv", 'text,label\nplain,a\n"Nice, so",b\n')
    texts = {}
    for quoting in ("csv", "none"):
        recorded = ReadAs("csv", None, {"quoting": quoting})
        for path in (open_, clear):
            rows = open_file(File(path, "x", recorded=recorded)).records(["text"])
            texts[quoting, path.name] = [values["text"] for _, values, _ in rows][1]
    assert texts == {("csv", "x.csv"): "Nice", ("none", "x.csv"): '"Nice"',
                     ("csv", "y.csv"): "Nice, so", ("none", "y.csv"): "Nice, so"}  # fmt: skip
    assert "quotes may be letters" in mistakes(lambda: read(open_))[0]


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"format": "json", "delimiter": ";"}, "data.delimiter describes csv, and data.format is"),
        ({"format": "lines", "escapechar": "/"}, "data.escapechar describes csv"),
        ({"delimiter": "'", "quoting": "'"}, "is the quote, too"),
        ({"delimiter": "/", "escapechar": "/"}, 'data.escapechar are both "/"'),
        ({"names": ("a", "a")}, "data.names has a name twice"),
        ({"names": ("a", "b", "c")}, "data.names has 3 names for 2 columns"),
    ],
)
def test_keys_that_contradict_each_other(tmp_path: Path, keys: dict[str, Any], line: str):
    path = write(tmp_path / "x.csv", "text,label\na,0\n")
    assert line in mistakes(lambda: read(path, **keys))[0]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ("text,label\r\na,0\nb,1\r\n", ["a", "b"]),
        ("text,label\ra,0\rb,1", ["a", "b"]),
        ('text,label\r"a\nb",0\rc,1\r', ["a\nb", "c"]),
        ("text,label\nred\rround,0\nb,1\n", ["red\rround", "b"]),
        ("\n\n,\ntext,label\na,0\n\nb,1\n\n", ["a", "b"]),
        ("text\none\n\ntwo\n", ["one", "two"]),
        ("text,label\n a ,0\n", [" a "]),
        ("text,label\na\u2028b\x0b,0\n", ["a\u2028b\x0b"]),
    ],
)
def test_line_ends_and_blank_lines(tmp_path: Path, content: str, texts: list[str]):
    path = write(tmp_path / "x.csv", content)
    for strict in (True, False):
        rows, _ = read(path, strict)
        assert [values["text"] for values in rows.values()] == texts
