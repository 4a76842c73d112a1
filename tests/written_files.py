"""Delimited files as common programs write them, and the tables that they are written from."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import pyarrow as pa
from hypothesis import assume
from hypothesis import strategies as st

Rows = Sequence[Sequence[str]]
NASTY = [*"\"'\\,;\t|@ \n\r", "\r\n", '""', '\\"', ", ", "a", "b", "1", "é", "\u2028", "\x85", "🎬"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(NASTY), max_size=8).map("".join),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.lists(st.sampled_from(["good", "film", "the", "was", "Nice"]), min_size=1).map(" ".join),
)
LABELS = st.one_of(st.sampled_from(["pos", "neg", "0", "1", ""]), TEXTS)


@dataclass(frozen=True)
class Written:
    """The bytes of a file, the rows that they stand for, and the keys that it cannot do without."""

    text: str
    content: bytes  # the text, encoded and compressed
    columns: list[str]
    rows: list[list[str]]
    suffix: str
    keys: dict[str, Any] = field(default_factory=dict)


def csv_text(rows: Rows, **how: Any) -> str:
    out = io.StringIO(newline="")
    try:
        csv.writer(out, **how).writerows(rows)
    except csv.Error:  # QUOTE_NONE, and a field would need quotes
        assume(False)
    return out.getvalue()


def spaced_text(rows: Rows, delimiter: str, end: str) -> str:
    """All fields in quotes, and a blank behind each delimiter."""
    quoted = [['"{}"'.format(cell.replace('"', '""')) for cell in row] for row in rows]
    return "".join(f"{delimiter} ".join(row) + end for row in quoted)


def pandas_text(rows: Rows, index: bool, **how: Any) -> str:
    frame = pd.DataFrame(rows[1:], columns=rows[0])
    try:
        return frame.to_csv(index=index, **how)
    except csv.Error:
        assume(False)
        raise


def spark_text(rows: Rows, delimiter: str, quote_all: bool) -> str:
    """Spark's csv writer: in quotes it escapes quotes and backslashes, elsewhere nothing."""
    marks = str.maketrans({'"': '\\"', "\\": "\\\\"})

    def cell(value: str) -> str:
        special = any(mark in value for mark in (delimiter, '"', "\n", "\r"))
        return f'"{value.translate(marks)}"' if special or quote_all or not value else value

    text = "".join(delimiter.join(map(cell, row)) + "\n" for row in rows)
    # Without a single quote in all texts, two backslashes cannot be told from two letters
    assume("\\\\" not in text or any('"' in value for row in rows for value in row))
    return text


def mysql_text(rows: Rows, delimiter: str, enclosed: bool) -> str:
    """MySQL's SELECT ... INTO OUTFILE. It writes NUL as \\0, which only MySQL understands."""
    assume(not any("\0" in cell for row in rows for cell in row))
    escaped = {"\\": "\\\\", "\n": "\\\n", delimiter: f"\\{delimiter}"}
    if enclosed:
        escaped = {"\\": "\\\\", "\n": "\\\n", '"': '\\"'}

    def cell(value: str) -> str:
        out = "".join(escaped.get(letter, letter) for letter in value)
        return f'"{out}"' if enclosed else out

    return "".join(delimiter.join(map(cell, row)) + "\n" for row in rows)


def r_text(rows: Rows, delimiter: str, double: bool) -> str:
    """R's write.table with row names, which the header does not name."""
    marks = str.maketrans({'"': '""' if double else '\\"'})

    def line(cells: Sequence[str]) -> str:
        return delimiter.join(f'"{cell.translate(marks)}"' for cell in cells) + "\n"

    return line(rows[0]) + "".join(line([str(i), *row]) for i, row in enumerate(rows[1:], 1))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("train.csv", data)
    return out.getvalue()


@st.composite
def tables(draw: st.DrawFn) -> list[list[str]]:
    """A header and rows: a text, a label, and often other columns in any order."""
    columns = draw(st.permutations(["text", "label", *draw(st.sampled_from(
        [[], [], ["id"], ["empty", "more"]]))]))  # fmt: skip
    kinds = {"text": TEXTS, "label": LABELS, "empty": st.just(""), "more": TEXTS}
    count = draw(st.integers(1, 12))
    values = {name: kinds.get(name) for name in columns}
    rows = [
        [str(i) if kind is None else draw(kind) for kind in values.values()] for i in range(count)
    ]
    return [[*columns], *rows]


@st.composite
def written_files(draw: st.DrawFn) -> Written:
    """A table in a file of any dialect, encoding and compression that is supported."""
    rows = draw(tables())
    header, body = rows[0], rows[1:]
    columns, keys = header, {}
    mark = draw(st.sampled_from(",,;\t|"))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    quoting = draw(st.sampled_from([0, 0, 1, 2, 3]))
    writer = draw(st.sampled_from(["csv", "csv", "pandas", "spark", "mysql", "r"]))
    if writer not in ("csv", "pandas"):
        end = "\n"
    if writer == "csv" and draw(st.booleans()):
        rows, keys = body, {"names": tuple(header)}
    if writer == "csv":
        text = csv_text(rows, delimiter=mark, quoting=quoting, lineterminator=end)
        if quoting == csv.QUOTE_ALL and draw(st.integers(0, 5)) == 0:
            text = spaced_text(rows, mark, end)
    elif writer == "pandas":
        index = draw(st.booleans())
        how = dict(sep=mark, quoting=quoting, lineterminator=end)
        if draw(st.booleans()):
            how.update(escapechar="\\", doublequote=False)
            keys = {"escapechar": "\\", "quoting": "none" if quoting == 3 else "csv"}
        text = pandas_text(rows, index, **how)
        columns = ["", *header] if index else header
        body = [[str(i), *row] for i, row in enumerate(body)] if index else body
    elif writer == "spark":
        quote_all = draw(st.booleans())
        text = spark_text(rows, mark, quote_all)
        if quote_all and "\\\\" in text:
            keys = {"escapechar": "\\", "quoting": "csv"}
    elif writer == "mysql":
        enclosed = draw(st.booleans())
        text = mysql_text(body, mark, enclosed)
        keys = {"names": tuple(header), "escapechar": "\\"}
        keys["quoting"] = "csv" if enclosed else "none"
    else:
        text = r_text(rows, mark, draw(st.booleans()))
        columns, body = ["", *header], [[str(i), *row] for i, row in enumerate(body, 1)]
    # Letters that a csv writer would have written as well, for another text
    letters = quoting == csv.QUOTE_NONE and writer in ("csv", "pandas") and not keys.get("quoting")
    assume(not letters or not any(cell[:1] == cell[-1:] == '"' for row in rows for cell in row))
    # Unquoted, a carriage return at the end of a line cannot be told from the end
    assume(not any(f"\r{e}" in text for e in ("\n", "\r")) or end == "\r\n")
    codec = draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"]))
    if codec == "cp1252":
        keys["encoding"] = codec
    try:
        content = text.encode(codec)
    except UnicodeEncodeError:
        assume(False)
    suffix = draw(st.sampled_from([".csv", ".csv", ".tsv" if mark == "\t" else ".csv"]))
    packed = draw(st.sampled_from([*COMPRESS, ".zip"]))
    content = zipped(content) if packed == ".zip" else COMPRESS[packed](content)
    return Written(text, content, columns, body, suffix + packed, keys)
