"""Delimited text as public datasets have it, read to the row or refused with the way out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distsent.formats.open import open_file
from distsent.formats.options import FileOptions
from tests.dataset_files import mistakes
from tests.public_files import FILES

Rows = dict[int, dict[str, str]]


def read(path: Path, strict: bool = True, **keys: Any) -> tuple[Rows, str]:
    """The rows of a file, and what is said of it."""
    reader = open_file(path, path.name, FileOptions(**keys), strict)
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
