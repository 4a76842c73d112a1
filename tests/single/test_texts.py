"""Texts from files: every format, in order; bad rows have an error; missing columns."""

import errno
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from distsent.data.stdin_batches import stdin_batches
from distsent.data.texts import TextFile
from distsent.errors import UserError
from distsent.job.schema import DataSection
from tests import dataset_files
from tests.spreadsheet_files import write_xlsx

TEXTS = ["a good film", "not, so good", 'it says "so"', "two\nlines", "été 🎬"]


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.jsonl", "x.json", "x.parquet"])
def test_every_format_gives_the_same_rows_in_order(name: str, tmp_path: Path) -> None:
    path = dataset_files.write(
        tmp_path / name, {"id": [*"12345"], "text": TEXTS, "more": [*"abcde"]}
    )
    file = TextFile(path)
    assert [(one.row, one.text, one.error) for one in file] == [
        (i, text, "") for i, text in enumerate(TEXTS, 1)
    ]
    assert file.done() == 1.0
    assert [
        (one.text, one.pair) for one in TextFile(path, DataSection(pair_column="more"))
    ] == list(zip(TEXTS, "abcde", strict=True))


def test_a_txt_file_is_a_text_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("\ufeffone\r\ntwo\n\nfour".encode())
    assert [(one.row, one.text, one.error) for one in TextFile(path)] == [
        (1, "one", ""), (2, "two", ""), (3, "", "no text"), (4, "four", ""),
    ]  # fmt: skip


def test_bad_rows_have_an_error_and_cost_no_others(tmp_path: Path) -> None:
    table = tmp_path / "x.csv"
    table.write_bytes(b'text,n\ngood,1\n"  ",2\na,b,c\n\nlast,5\n')
    assert [(one.row, one.error) for one in TextFile(table)] == [
        (1, ""), (2, "no text"), (3, "3 fields where the header has 2 (line 4); put quotes "
                                     "around texts that contain the delimiter"), (4, ""),
    ]  # fmt: skip
    lines = tmp_path / "x.jsonl"
    lines.write_text(
        '{"text": "good"}\n{"text": 7}\n{"other": "x"}\n{broken\n[1]\n"bare"\n{"text": "last"}\n'
    )
    found = [(one.row, one.text, one.error) for one in TextFile(lines)]
    assert found[3][2].startswith("not JSON (")
    assert [*found[:3], *found[4:]] == [
        (1, "good", ""), (2, "", "7 is not text"), (3, "", "no text"), (5, "", "[1] is not an "
                                                                               "object with "
                                                                               "columns"),
                                                                               (6, "bare", ""),
        (7, "last", ""),
    ]  # fmt: skip
    column = dataset_files.write(tmp_path / "x.parquet", {"text": ["good", None, "last"]})
    assert [one.error for one in TextFile(column)] == ["", "no text", ""]


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet"])
def test_a_missing_column_is_one_line_with_the_closest_one(name: str, tmp_path: Path) -> None:
    path = dataset_files.write(tmp_path / name, {"Texts": ["a"], "label": ["b"]})
    assert dataset_files.mistakes(lambda: TextFile(path)) == [
        f"{path}: no column 'text' (data.text_column); did you mean 'Texts'? there are Texts, label"
    ]


def test_a_position_of_a_name_that_recurs_is_read_or_refused(tmp_path: Path) -> None:
    data, rows = DataSection(text_position=1), [["text", "text"], ["a", "b"], ["c", "d"]]
    sheet = write_xlsx(tmp_path / "x.xlsx", {"S": rows})
    assert [one.text for one in TextFile(sheet, data)] == ["b", "d"]
    table = pa.table([["a", "c"], ["b", "d"]], names=["text", "text"])
    parquet.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match="two columns are called text; rename one"):
        list(TextFile(tmp_path / "x.parquet", data))


@pytest.mark.parametrize(("name", "content", "line"), [
    ("x.json", "{",
     "not JSON (Expecting property name enclosed in double quotes, line 1, column 2)"),
    ("x.json", "[{",
     "not JSON (Expecting property name enclosed in double quotes, line 1, column 3)"),
    ("x.json", "[1, 2", "not JSON (expecting , or ], line 1, column 6)"),
    ("x.parquet", "PAR", "not parquet, or damaged (Parquet file size is 3 bytes"),
])  # fmt: skip
def test_an_unreadable_file_is_one_line(name: str, content: str, line: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    (found,) = dataset_files.mistakes(lambda: TextFile(tmp_path / name))
    assert found.startswith(f"{tmp_path / name}: {line}") and "\n" not in found


def test_no_file_is_one_line(tmp_path: Path) -> None:
    assert dataset_files.mistakes(lambda: TextFile(tmp_path / "no.csv")) == [
        f"{tmp_path / 'no.csv'}: no such file"
    ]


def test_a_stream_is_read_as_it_comes() -> None:
    rows = [*stdin_batches((f"{i}\n" for i in range(5)), most=2)]
    assert [line for _, lines in rows for line in lines] == [*"01234"]
    assert all(1 <= len(lines) <= 2 for _, lines in rows)
    assert [first for first, _ in rows] == [
        1 + sum(len(lines) for _, lines in rows[:i]) for i in range(len(rows))
    ]


def test_a_stream_has_the_lines_of_a_file(tmp_path: Path) -> None:
    content = b"a\rb\r\n\r\nc\r\r\nd"
    (tmp_path / "x.txt").write_bytes(content)
    stream = io.TextIOWrapper(io.BytesIO(content))
    found = [line for _, lines in stdin_batches(stream, most=2) for line in lines]
    assert found == [one.text for one in TextFile(tmp_path / "x.txt")] == ["a\rb", "", "c\r", "d"]


def test_a_stream_that_cannot_be_read_ends_with_its_last_good_line() -> None:
    polls = iter(range(50))  # it must not wait for ever
    for error, ending, expected in (
        (OSError(errno.EIO, "Input/output error"), UserError, "read after line 3 (Input/output e"),
        (OSError(errno.EBADF, "Bad file descriptor"), UserError, "read (Bad file descriptor); g"),
        (MemoryError("no more"), MemoryError, "no more"),
    ):

        def lines(error: BaseException = error) -> Iterator[str]:
            yield from () if "Bad" in str(error) else ("a\n", "b\n", "c")
            raise error

        found: list[str] = []
        with pytest.raises(ending, match=re.escape(expected)):
            for _, some in stdin_batches(lines(), most=2, poll=lambda: next(polls)):
                found += some
        assert found == ([] if "Bad" in str(error) else [*"abc"])


def test_a_file_with_quotes_that_are_not_well_formed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('id,text\n1,good\n2,"unclosed\n3,"over\ntwo lines"\n4,fine\n')
    assert dataset_files.mistakes(lambda: TextFile(path)) == [
        f'{path}, row 2 (line 3): text behind a closing quote (2,"unclosed); with quotes as '
        "letters, row 4: 1 field where the header has 2 (line 5); correct it"
    ]


def test_a_malformed_header_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text('"text\ngood\n')
    (found,) = dataset_files.mistakes(lambda: TextFile(tmp_path / "x.csv"))
    assert found == (
        f"{tmp_path / 'x.csv'}: no column 'text' (data.text_column); did you mean '\"text'? "
        'there are "text'
    )


@pytest.mark.parametrize("name", ["x.jsonl", "x.json"])
def test_half_a_character_is_not_text(name: str, tmp_path: Path) -> None:
    rows = ['{"text": "cut \\ud83d"}', '{"text": "whole \\ud83d\\ude00"}', '"bare \\udc00"']
    (tmp_path / name).write_text("\n".join(rows) if name.endswith("l") else f"[{', '.join(rows)}]")
    assert [(one.text, one.error) for one in TextFile(tmp_path / name)] == [
        ("cut \ufffd", "half a character (\\ud83d)"), ("whole \U0001f600", ""),
        ("bare \ufffd", "half a character (\\udc00)"),
    ]  # fmt: skip


def test_the_first_object_may_lack_the_text_but_not_all(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": 1}\n{"id": 2, "text": "here"}\n')
    assert [(one.row, one.text, one.error) for one in TextFile(path)] == [
        (1, "", "no text"),
        (2, "here", ""),
    ]


def test_a_line_that_begins_with_a_quoted_word_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text('text\tn\n"Avatar" was great.\t1\nplain\t2\nhe said "no"\t3\n')
    assert [one.text for one in TextFile(tmp_path / "x.tsv")] == [
        '"Avatar" was great.',
        "plain",
        'he said "no"',
    ]


def test_bytes_that_are_not_utf8_make_the_file_doubtful(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_bytes(b'"a "b,caf\xe9,text\n1,2,good\n')
    (found,) = dataset_files.mistakes(lambda: TextFile(tmp_path / "x.csv"))
    assert found == (
        f"{tmp_path / 'x.csv'}: not UTF-8 (byte 0xe9, line 1), likely cp1252 "
        '("\\"a \\"b,café,text"); data.encoding = "cp1252" reads it'
    )
