"""JSON in all shapes: what is accepted is read exactly, everything else is one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.json import values as json_values
from distsent.formats.json.reader import parts_of
from distsent.formats.open import open_file
from distsent.formats.options import FileOptions

ROWS = [
    {"text": 'a "q", b', "label": 0},
    {"text": "é\u2028🎬", "label": 1},
    {"text": "", "label": 0},
]
FRAME = pd.DataFrame(ROWS)
COLUMNS = ["text", "label"]
PAIRS = [[row["text"], row["label"]] for row in ROWS]


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(path: Path, strict: bool = True, part: str = "", **keys: Any) -> list[Any]:
    """The rows of a file, or the line with which it is refused."""
    try:
        reader = open_file(File(path, path.name, FileOptions(**keys), strict, None, part))
        return [error if error else values for _, values, error in reader.records(COLUMNS)]
    except UserError as error:
        assert "\n" not in str(error) and str(error).startswith(path.name)
        return [str(error)]


SHAPES = {
    "lines": lines(ROWS),
    "lines with blank ones": "\n" + lines(ROWS).replace("\n", "\n\n \n"),
    "a list": json.dumps(ROWS),
    "a list after a newline": "\n\n" + json.dumps(ROWS),
    "a list, a row per line": "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]\n",
    "a pretty list": json.dumps(ROWS, indent=2),
    "pretty objects in sequence": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "objects without line ends": "".join(map(json.dumps, ROWS)),
    "a list for each column": json.dumps({k: [row[k] for row in ROWS] for k in COLUMNS}),
    "pandas records": FRAME.to_json(orient="records"),
    "pandas lines": FRAME.to_json(orient="records", lines=True),
    "pandas columns": FRAME.to_json(),
    "pandas index": FRAME.to_json(orient="index"),
    "pandas split": FRAME.to_json(orient="split"),
    "pandas table": FRAME.to_json(orient="table", index=False),
    "a list under a key": json.dumps({"version": "1.0", "data": ROWS}),
    "pretty columns": json.dumps({k: [row[k] for row in ROWS] for k in COLUMNS}, indent=4),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_gives_the_rows(tmp_path: Path, shape: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(json_values, "CHUNK", 7)  # values lie across the ends of what is read
    for name, start in (("x.json", ""), ("x.jsonl", ""), ("x.json.gz", "\ufeff")):
        content = (start + SHAPES[shape]).encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        for strict in (True, False):
            assert read(tmp_path / name, strict) == ROWS, name
        assert parts_of(tmp_path / name, name) == {}


def test_rows_that_are_lists_have_positions_or_given_names(tmp_path: Path):
    path = tmp_path / "x.json"
    for content in (json.dumps(PAIRS), lines(PAIRS), FRAME.to_json(orient="values")):
        path.write_text(content)
        assert read(path, names=("text", "label")) == ROWS
        assert read(path)[0] == {"0": ROWS[0]["text"], "1": 0}
        assert read(path, names=("a", "b", "c")) == [
            "x.json: data.names has 3 names, but rows have 2 values"
        ]
    path.write_text(json.dumps([*PAIRS, ["only one"]]))
    assert read(path, strict=False, names=("text", "label")) == [
        *ROWS,
        "1 value for 2 columns",
    ]


def test_one_object_holds_the_splits(tmp_path: Path):
    """Kept as its keys say: {"train": ..., "val": ..., "oos_test": ...}."""
    path = tmp_path / "x.json"
    columns = {k: [row[k] for row in ROWS] for k in COLUMNS}
    for rows in (ROWS, PAIRS, columns):
        for indent in (None, 1):
            data = {"license": "x", "train": rows, "val": rows, "oos_test": rows}
            path.write_text(json.dumps(data, indent=indent))
            assert parts_of(path, "x.json") == {"train": 3, "val": 3, "oos_test": 3}
            names = ("text", "label")
            assert read(path, part="val", names=names) == ROWS
            assert read(path, strict=False, names=names) == ROWS * 3
            assert read(path, names=names) == [
                "x.json: holds the splits train, val, oos_test; name it as data.source, not as "
                "data.train or another split"
            ]
    assert read(path, part="dev") == ["x.json: no split 'dev'; there are train, val, oos_test"]


REFUSED = {
    "a comma at the end": ('[{"text": "a"},]', "not JSON (a comma before ], line 1, column 16)"),
    "a comma in an object": (
        '[\n{"text": "a",}]', "not JSON (a comma before }, line 2, column 14)"
    ),
    "a mark": ('[{"text": "a"},\n\ufeff{"text": "b"}]', "not JSON (the mark of an encoding inside "
               "of the file, as in joined files, line 2, column 1)"),
    "a comment": ('[\n// rows\n{"text": "a"}]', "not JSON (a comment, line 2, column 1)"),
    "a cut list": ('[{"text": "a"}, {"text": ', "not JSON (Expecting value, line 1, column 26)"),
    "a cut text": ('[{"text": "a"}, {"text": "b', "not JSON (Unterminated string starting at, "
                                                   "line 1, column 26)"),
    "two lists": ('[{"text": "a"}][{"text": "b"}]',
                  "not JSON (the list ends, but the file does not, line 1, "),
    "Python": ("{'text': 'a', 'label': 0}\n" * 3, "a dict of Python, not JSON (column 2)"),
    "a list of Python": ("[{'text': 'a', 'label': 0}]", "a dict of Python, not JSON (column 3"),
    "two kinds of objects": ('{"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 4}}', "objects in an "),
    "two lists of objects": ('{"a": [{"text": "a"}], "b": [{"text": "b"}]}', "an object with "),
    "a number": ("5", "row 1: 5 is not an object with columns"),
    "deep": ("[" * 100_000, "not JSON (nested too deeply, line 1, column 2)"),
    "a huge number": ("[" + "1" * 5000 + "]", "not JSON (Exceeds the limit"),
    "words": ("Hello, this is text.", "not JSON (Expecting value, line 1, column 1)"),
    "columns of two lengths": ('{"text": ["a", "b"], "label": [0]}', "an object with 'text', "),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_such_json_is_one_line(tmp_path: Path, what: str):
    content, line = REFUSED[what]
    (tmp_path / "x.json").write_text(content)
    (found,) = read(tmp_path / "x.json")
    assert found.startswith((f"x.json: {line}", f"x.json, {line}")), found


def test_a_bad_row_costs_its_own_row(tmp_path: Path):
    good = '{"text": "a", "label": 0}'
    bad = {
        '{"text": "b", "text": "c", "label": 1}': "the key 'text' occurs twice in this object",
        '{"text": "b" "label": 1}': "not JSON (Expecting ',' delimiter, column 14)",
        "[1, 2]": "[1, 2] is not an object with columns",
        '{"text": "x",}': "not JSON (a comma before }, column 14)",
        '{"text": ' + "[" * 100_000: "not JSON (nested too deeply)",
    }
    for name in ("x.jsonl", "x.json"):
        (tmp_path / name).write_text("\n".join([good, *bad, good]))
        row = json.loads(good)
        assert read(tmp_path / name, strict=False) == [row, *bad.values(), row]
        assert (
            read(tmp_path / name)[0] == f"{name}, row 2: the key 'text' occurs twice in this object"
        )
    other = '{"text": "a", "label": 0, "id": 1, "id": 2}\n' * 2
    (tmp_path / "x.jsonl").write_text(other)  # a key that nobody reads may occur twice
    assert len(read(tmp_path / "x.jsonl")) == 2


def test_a_column_may_begin_in_the_last_row(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n' * 300 + '{"label": 0}\n')
    reader = open_file(File(path, "x.jsonl"))
    assert reader.columns == ["text", "label"] and reader.read_as.line() == "json, 301 rows"


def test_a_list_needs_no_more_memory_than_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    largest = 0
    real = json_values._Buffer._more

    def watched(buffer: json_values._Buffer) -> bool:
        nonlocal largest
        more = real(buffer)
        largest = max(largest, len(buffer._window))
        return more

    monkeypatch.setattr(json_values._Buffer, "_more", watched)
    monkeypatch.setattr(json_values, "CHUNK", 1000)
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"text": "word " * 10, "label": i % 2} for i in range(2000)]))
    reader = open_file(File(path, "x.json", strict=True))
    assert reader.read_as.rows == 2000 and len([*reader.records(COLUMNS)]) == 2000
    assert largest < 5000
