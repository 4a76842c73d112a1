"""One made-up file per format: read exactly, or refused in one line that helps."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import sqlite3
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest

from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from tests.spreadsheet_files import Date, Fault, write_ods, write_xlsx

TEXTS = ["plain", 'it says "so", \tyes', "two\nlines", "é 🎬", " blanks ", "0123"]
LABELS = ["pos", "neg", "neg", "pos", "neg", "pos"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]


def read(path: Path, strict: bool = True, recorded: ReadAs | None = None, **keys: Any) -> Any:
    """(how the file was read, its rows or their errors), or the line with which it is refused."""
    try:
        reader = open_file(File(path, path.name, FileOptions(**keys), strict, recorded))
        rows = [error or values for _, values, error in reader.records(["text", "label"])]
        return reader.read_as.line(), rows
    except UserError as error:
        assert str(error).startswith(path.name) and "\n" not in str(error)
        line = str(error).removeprefix(path.name).removeprefix(": ")
        return line.replace(f"{path.parent}/", "")


def content(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


LINES = "pos a good film\n\nneg  very dull\r\npos\tso\u2028so \n" * 4
FAST = "__label__pos a good film\n\n__label__neg , very dull\r\nso so __label__pos\n"
PAIRS = [["pos", "a good film"], ["neg", "very dull"], ["pos", "so\u2028so "]] * 4
FOUND = [{"label": label, "text": text} for label, text in PAIRS]


def test_lines_are_texts_with_or_without_labels(tmp_path: Path):
    path = content(tmp_path / "x.txt", LINES)
    assert read(path, format="label_text") == ("label_text, 12 rows", FOUND)
    named = [{"text": row["label"], "label": row["text"]} for row in FOUND]
    assert read(path, format="label_text", names=("text", "label"))[1] == named
    texts = [line.removesuffix("\r") for line in LINES.split("\n")[:-1]]
    assert read(path, strict=False) == ("lines, 16 rows", texts)
    assert read(path).startswith(
        'each line may be a label, a blank and a text ("pos" and "a good film" in the first); '
        'data.format = "label_text"'
    )
    path = content(tmp_path / "mixed.txt", "a\rb\r\nc\r")
    assert read(path, format="lines") == ("lines, 2 rows", ["a\rb", "c"])
    path = content(tmp_path / "plain.txt", "\n".join(f"{i} is a number" for i in range(20)))
    assert read(path).startswith('lines without columns ("0 is a number"); data.delimiter or ')
    assert read(path, format="label_text").startswith("20 different words begin 20 lines ('0', ")


def test_a_text_without_label_keeps_its_first_word_when_the_training_had_labels(tmp_path: Path):
    path = content(tmp_path / "x.txt", LINES)
    trained = open_file(File(path, "x.txt", FileOptions(format="label_text"))).read_as
    assert ReadAs.of(trained.stored()) == trained
    path = content(tmp_path / "new.txt", "A film alone\nAnother one\n")
    assert read(path, strict=False, recorded=trained) == (
        "no line begins with a label of the training ('A', 'Another'); data.format = \"lines\" "
        "reads each line as a text, without a label"
    )
    path = content(tmp_path / "new.txt", "pos A film\nAnother one\n")
    assert read(path, strict=False, recorded=trained)[1] == [
        {"label": "pos", "text": "A film"},
        'begins with "Another", which is no label of the training',
    ]


def test_a_label_is_known_by_its_mark_or_by_words_that_begin_no_sentences(tmp_path: Path):
    end = "a good film __label__meta_plus_m\nvery dull __label__meta_zero\n"
    found = read(content(tmp_path / "polemo.txt", end * 9))[1]
    assert found[1] == {"label": "meta_zero", "text": "very dull"} and len(found) == 18
    prose = "The film is dull\nIt is the best\nThen it was over\nAnd then the end\n" * 9
    assert read(content(tmp_path / "prose.txt", prose)).startswith("lines without columns (")


def test_fasttext_has_one_marked_label_in_a_line(tmp_path: Path):
    path = content(tmp_path / "x.txt", FAST)
    found = [{"label": "pos", "text": "a good film"}, {"label": "neg", "text": ", very dull"},
             {"label": "pos", "text": "so so"}]  # fmt: skip
    for strict in (True, False):
        assert read(path, strict) == ("fasttext, 3 rows", found)
    odd = (
        "__label__a __label__b text\nno label\nin __label__a the text\nx__label__a y\n__label__a\n"
    )
    path = content(tmp_path / "odd.txt", odd)
    assert read(path, False, format="fasttext")[1] == [
        "2 labels (__label__a, __label__b); one label per text is read; several need "
        'data.task = "multi_label"',
        {"label": None, "text": "no label"},
        "'__label__a' stands within the text, not before or after it",
        {"label": None, "text": "x__label__a y"},
        {"label": "a", "text": ""},
    ]
    assert read(path, format="fasttext").startswith(", row 1: 2 labels (")


def test_fasttext_has_several_labels_where_a_text_may(tmp_path: Path) -> None:
    lines = {
        "__label__a __label__b, both here": (["a", "b,"], "both here"),
        "a text __label__b\t__label__a ": (["b", "a"], "a text"),
        "__label__a one": (["a"], "one"),
        "no label": ([], "no label"),
        "__label__a text __label__b": "labels (__label__a, __label__b) stand within the text, not",
        "__label__a x __label__b y": "labels (__label__a, __label__b) stand within the text, not",
        "x __label__a y": "'__label__a' stands within the text, not before or after it",
    }
    path = content(tmp_path / "x.txt", "".join(f"{line}\n" for line in lines))
    with open_file(File(path, "x.txt", FileOptions(format="fasttext"), lists=True)) as reader:
        for expected, (_, values, error) in zip(
            lines.values(), reader.records(["text", "label"]), strict=True
        ):
            if isinstance(expected, str):
                assert error.startswith(expected)
            else:
                assert (values["label"], values["text"], error) == (*expected, "")


@pytest.mark.parametrize(
    ("text", "strict", "how"),
    [
        ("text\tlabel\na\tpos\nb, c\tneg\n", True, "csv, delimiter tab, 2 rows"),
        ("text|label\na|pos\nb|neg\n", True, "csv, delimiter '|', 2 rows"),
        ('{"text": "a", "label": "pos"}\n{"text": "b", "label": "neg"}\n', True, "json, 2 rows"),
        ('[\n{"text": "a", "label": "pos"}\n]', False, "json, 1 row"),
        ("a, b\nc, d\n", False, "lines, 2 rows"),
        ("\n", False, "lines, 1 row"),
    ],
)
def test_a_txt_is_what_all_of_its_lines_are(tmp_path: Path, text: str, strict: bool, how: str):
    assert read(content(tmp_path / "x.txt", text), strict)[0] == how


def test_a_txt_that_may_be_a_table_is_refused_without_a_key(tmp_path: Path):
    path = content(tmp_path / "x.txt", "text\tlabel\na\tpos\nb\tneg\n")
    line = 'all lines have the same number of tabs; data.format = "csv" reads columns, "lines" '
    assert read(path, strict=False).startswith(line)
    assert read(path, strict=False, format="lines")[1][0] == "text\tlabel"
    recorded = ReadAs("csv", None, {"delimiter": "\t", "header": True})
    assert read(path, False, recorded)[1][0] == {"text": "a", "label": "pos"}
    path = content(tmp_path / "y.txt", "a text\nanother one\n")  # though the training had a table
    assert read(path, False, recorded) == ("lines, 2 rows", ["a text", "another one"])


@pytest.mark.parametrize("kind", ["x.parquet", "x.arrow", "x.feather", "x.arrows", "x.parquet.gz"])
def test_columns_of_every_type_of_text(tmp_path: Path, kind: str):
    texts = pa.array([*TEXTS, None])
    kinds = [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary_view(),
             pa.dictionary(pa.int32(), pa.string())]  # fmt: skip
    for type_ in kinds:
        table = pa.table({"other": range(7), "label": [*LABELS, None], "text": texts.cast(type_)})
        file = io.BytesIO()
        if "parquet" in kind:
            parquet.write_table(table, file)
        elif kind == "x.arrows":
            with pa.ipc.new_stream(file, table.schema) as writer:
                writer.write_table(table)
        else:
            feather.write_feather(table, file)
        data = file.getvalue()
        path = content(tmp_path / kind, gzip.compress(data) if kind.endswith("gz") else data)
        name = "parquet" if "parquet" in kind else "arrow"
        how = f"{name}, gzip, 7 rows" if kind.endswith("gz") else f"{name}, 7 rows"
        assert read(path) == (how, [*ROWS, {"text": None, "label": None}]), type_
    content(tmp_path / "y.bin", data)  # by content
    assert read(tmp_path / "y.bin")[1][:6] == ROWS
    assert read(content(tmp_path / kind, data[: len(data) // 2])).startswith(
        (f"not {name}, or damaged (", "cannot be read (")
    )


def test_two_columns_of_one_name_and_bytes_that_are_no_text(tmp_path: Path):
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == "two columns are called text; rename one"
    broken = pa.array([b"fine", b"caf\xe9"], pa.binary())
    parquet.write_table(pa.table({"text": broken.view(pa.string())}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet")[1] == [{"text": "fine"}, {"text": "caf\udce9"}]
    feather.write_feather(pa.table({"text": broken.view(pa.string())}), tmp_path / "x.arrow")
    assert read(tmp_path / "x.arrow").startswith("cannot be read (")


HEAD = ["text", "label"]
CELLS = [[row["text"], row["label"]] for row in ROWS]


def test_spreadsheets(tmp_path: Path):
    path = write_xlsx(tmp_path / "x.xlsx", {"S": [[], HEAD, *CELLS[:3], [], *CELLS[3:], ["", ""]]})
    assert read(path) == ("excel, sheet 'S', 6 rows", ROWS)
    rows = [row for row in ROWS if row["text"].strip() == row["text"] and "\n" not in row["text"]]
    ods = write_ods(tmp_path / "x.ods", [HEAD, *([row["text"], row["label"]] for row in rows)])
    assert read(ods) == (f"excel, sheet 'S', {len(rows)} rows", rows)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(path, "reviews.xlsx")
    assert read(tmp_path / "x.zip") == ("excel, zip, sheet 'S', 6 rows", ROWS)
    content(tmp_path / "x.csv", path.read_bytes())
    assert read(tmp_path / "x.csv")[1] == ROWS
    tabs = "text\tlabel\na\tpos\nb\tneg\n"  # exported for Excel, but not by it
    assert read(content(tmp_path / "x.xls", tabs))[0] == "csv, delimiter tab, 2 rows"


def test_cells_that_are_no_texts(tmp_path: Path):
    cells = [[1984, 1], [0.5, 2.5], [Date(40000), True], [Fault("#N/A"), "a"], [1e16, None]]
    path = write_xlsx(tmp_path / "x.xlsx", {"S": [HEAD, *cells]})
    found = read(path, header=True)[1]
    assert found[0] == {"text": "1984", "label": "1"} and found[3] == {"text": None, "label": "a"}
    assert found[1] == {"text": 0.5, "label": 2.5} and found[4]["text"] == 1e16
    assert str(found[2]["text"]) == "2009-07-06" and found[2]["label"] == "TRUE"


SHEETS = {
    "two sheets": ({"A": [HEAD, *CELLS], "B": [HEAD, *CELLS]}, {},
                   "2 sheets ('A', 'B'); data.sheet_"),
    "no such sheet": ({"A": [HEAD, *CELLS]}, {"sheet_name": "B"}, "no sheet 'B'; there are 'A'"),
    "a title": ({"A": [["Reviews"], HEAD, *CELLS]}, {},
                'the first row has nothing but "Reviews"'),
    "no header": ({"A": CELLS}, {}, "the first row looks like data ("),
    "three names": ({"A": CELLS}, {"names": ("a", "b", "c")}, "data.names has 3 names for 2"),
}  # fmt: skip


@pytest.mark.parametrize("what", SHEETS)
def test_spreadsheets_in_doubt(tmp_path: Path, what: str):
    sheets, keys, line = SHEETS[what]
    assert read(write_xlsx(tmp_path / "x.xlsx", sheets), **keys).startswith(line)


def test_spreadsheets_with_keys(tmp_path: Path):
    path = write_xlsx(tmp_path / "x.xlsx", {"A": [["x"], ["y"]], "B": CELLS, "C": []}, hidden="A")
    how, rows = read(path, names=("text", "label"))
    assert how == "excel, sheet 'B', no header line, columns text, label, 6 rows" and rows == ROWS
    assert read(path, sheet_name="A")[0] == "excel, sheet 'A', 1 row"


def test_workbooks_that_other_programs_wrote():
    """reviews.xls and numbers.xls by xlwt, merged.xlsx by openpyxl, reviews.xlsb by formulon."""
    folder = Path(__file__).parents[1] / "spreadsheets"
    words = ("great", "dull")
    rows = [
        {"text": f'the film number {i} was {words[i % 2]}, "so" é', "label": ("pos", "neg")[i % 2]}
        for i in range(12)
    ]
    for name in ("reviews.xls", "reviews.xlsb"):
        assert read(folder / name) == ("excel, sheet 'Reviews', 12 rows", rows)
    found = read(folder / "numbers.xls", header=True)[1]
    assert found[0] == {"text": "1984", "label": "1"} and found[1]["text"] == 0.5
    by_label = sorted(rows, key=lambda row: row["label"])  # in two merged cells
    assert read(folder / "merged.xlsx") == ("excel, sheet 'Sheet', 12 rows", by_label)
    notes = open_file(File(folder / "merged.xlsx", "merged.xlsx")).notes
    assert notes[1] == "10 cells with the value of the merged cell that covers them"


def test_merged_cells_of_a_sheet_whose_data_begins_in_another_column(tmp_path: Path):
    cells = [[None, None, *cells] for cells in (HEAD, *CELLS[:4])]
    for row, group in enumerate(("group", "a")):
        cells[row][1] = group
    path = tmp_path / "x.xlsx"
    write_xlsx(path, {"S": [[], *cells]}, merged=("B3:B6", "A3:A6", "F3:G6", "A9:B12"))
    assert read(path)[1] == ROWS[:4]
    reader = open_file(File(path, path.name, FileOptions()))
    assert [values["group"] for _, values, _ in reader.records(["group"])] == ["a"] * 4
    assert reader.notes[-1] == "3 cells with the value of the merged cell that covers them"


def test_columns_of_a_sheet_by_position_whose_names_recur(tmp_path: Path):
    names, cells = ["text", "text", "", ""], [["a", "b", "c", "d"], ["e", "f", "g", "h"]]
    path = write_xlsx(tmp_path / "x.xlsx", {"S": [names, *cells]})
    reader = open_file(File(path, path.name, FileOptions(header=True)))
    found = [values for _, values, _ in reader.records([1, 3])]
    assert found == [{1: "b", 3: "d"}, {1: "f", 3: "h"}]


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of files that are refused, by name."""
    sqlite3.connect(folder / "a.db").execute("create table t (x)").connection.close()
    with tarfile.open(folder / "a.tar", "w") as archive:
        archive.add(folder / "a.db")
    np.savez(folder / "a.npz", x=np.zeros(3))
    pd.DataFrame({"x": ["a"]}).to_stata(folder / "a.dta")
    word = io.BytesIO()
    with zipfile.ZipFile(word, "w") as archive_:
        archive_.writestr("[Content_Types].xml", "")
        archive_.writestr("word/document.xml", "")
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    return made | {
        **{f"p{i}.pkl": pickle.dumps([{"text": "a"}], protocol=i) for i in range(6)},
        **{f"p{i}.csv": pickle.dumps([{"text": "a"}], protocol=i) for i in range(6)},
        **{"a.tar.gz": gzip.compress(made["a.tar"]), "a.docx": word.getvalue()},
        "a.arff": b"% about\n@RELATION x\n@attribute text string\n"
                  b"@attribute 'the label' {a,b}\n@data\n",
        "a.xml": b"<?xml version='1.0'?><r/>", "b.xml": b"<reviews><review>a</review></reviews>",
        "a.sgm": b"<!DOCTYPE lewis SYSTEM 'lewis.dtd'>", "a.csv": b"\n<!DOCTYPE html><html></html>",
        "b.csv": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "a.pdf": b"%PDF-1.4",
        "sst.txt": b"(3 (2 It) (4 (2 's) (4 good)))\n", "a.h5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "a.7z": b"7z\xbc\xaf\x27\x1c" + bytes(99), "a.csv.gz": gzip.compress(gzip.compress(b"a")),
    }  # fmt: skip


NAMES = {
    "a.db": "a database of SQLite: not read; sqlite3 -header -csv a.db", "a.tar": "a tar archive: ",
    "a.npz": "arrays of NumPy: ", "a.dta": "a file of Stata: ", "a.tar.gz": "a tar archive: not re",
    "a.docx": "a document, not a table: ", "a.pdf": "PDF: not read; save its texts as csv",
    "a.arff": "ARFF: not read; sed '1,/^ *@data/Id' < a.arff > a.new.csv leaves its rows, which "
              'data.names = ["text", "the label"], ',
    "a.xml": "XML: not read; python -c \"import pandas; pandas.read_xml('a.xml', ",
    "b.xml": "XML: ", "a.sgm": "SGML: ",
    "a.csv": "an HTML page: not read; a download may have ended",
    "b.csv": "a pointer of git-lfs, not the file itself: not read; git lfs pull", "a.h5": "HDF5: ",
    "sst.txt": "parse trees of the Stanford Sentiment Treebank: not read; python -c ",
    "a.7z": "a 7z archive: not read; unpack it", "a.csv.gz": "compressed twice: ",
    **{f"p{i}.{end}": "pickled Python objects, which can run code: not read; if you trust it, "
                      "python"
       for i in range(6) for end in ("pkl", "csv")},
}  # fmt: skip


def test_other_formats_are_refused_by_name(tmp_path: Path):
    for name, data in files(tmp_path).items():
        path = content(tmp_path / name, data)
        for strict in (True, False):
            assert str(read(path, strict)).startswith(NAMES[name]), (name, read(path, strict))


@pytest.mark.parametrize(
    "word", ["ORCHID", "PAR1", "FEA1", "BZhello", "Obj", "cat", "GIF8", "PK", "Rar!"]
)
def test_a_text_may_begin_like_a_binary_format(tmp_path: Path, word: str):
    path = content(tmp_path / "x.csv", f"{word},label\nnumpy,pos\nb,neg\n")
    assert len(read(path)[1]) == 2
    content(tmp_path / "y.txt", f"{word}\n@relation\n")
    assert read(tmp_path / "y.txt", strict=False)[1] == [word, "@relation"]


def test_what_is_no_file_and_a_name_that_promises_too_much(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.csv")
    assert (
        read(tmp_path / "pipe.csv") == "no regular file, and all of it is read twice; name a file"
    )
    assert read(tmp_path).startswith("a folder; name a file")
    path = content(tmp_path / "x.csv.gz", "text,label\na,pos\nb,neg\n")
    assert len(read(path)[1]) == 2


def test_the_commands_that_convert_work(tmp_path: Path):
    """That of SST in a shell; others name tools that may not be there."""
    tree = "(3 (2 (2 The) (2 Rock)) (4 (2 is) (4 n't)))\n(0 (2 bad) (2 film))\n"
    line = read(content(tmp_path / "sst.txt", tree * 9))
    command = line.partition("not read; ")[2].partition(" and data.format")[0]
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, timeout=60)
    assert read(tmp_path / "sst.new.lines", format="label_text")[1][:2] == [
        {"label": "3", "text": "The Rock is n't"},
        {"label": "0", "text": "bad film"},
    ]
