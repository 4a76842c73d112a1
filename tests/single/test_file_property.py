"""Written files are read exactly or refused; damaged files are an error of one line.

200 files of each here; 20,000 with  FILES=20000 python -m pytest tests/single/test_file_property.py
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.formats.options import FileOptions
from tests.made_files import made_files
from tests.public_files import FILES as PUBLIC
from tests.written_files import Written, written_files

CASES = Path(__file__).parents[1] / "cases"
FILES = int(os.environ.get("FILES", 200))
Outcome = tuple[list[str] | None, list[tuple[int, Any, str]]] | UserError


def read(path: Path, strict: bool, **keys: Any) -> Outcome:
    """(columns, records) of a file, or the error that refuses it."""
    try:
        reader = open_file(File(path, path.name, FileOptions(**keys), strict))
        return reader.columns, [*reader.records(reader.columns or [])]
    except UserError as error:
        assert all(len(line.splitlines()) == 1 for line in error.lines), error
        return error


def read_alike(path: Path, **keys: Any) -> Outcome:
    """As training reads a file. Prediction reads the same rows, and may only go on after a bad one.

    It refuses what training refuses but for single rows, and nothing else.
    """
    trained, predicted = read(path, True, **keys), read(path, False, **keys)
    if isinstance(trained, UserError):
        if not isinstance(predicted, UserError):
            assert any(error for _, _, error in predicted[1]) or path.suffix != ".csv"
    elif isinstance(predicted, UserError):  # a table of texts, or texts with tabs?
        assert "data.format" in str(predicted), predicted
        assert path.suffix not in (".csv", ".tsv"), predicted
    elif not (path.suffix == ".txt" and predicted[0] is None):  # lines of texts to predict
        assert repr(predicted) == repr(trained)  # NaN differs from itself
    return trained


def test_a_written_file_is_read_exactly_or_refused(tmp_path_factory: pytest.TempPathFactory):
    folder, outcomes = tmp_path_factory.mktemp("written"), Counter[str]()

    @settings(
        max_examples=FILES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(written_files())
    def check(file: Written) -> None:
        path = folder / f"x{file.suffix}"
        path.write_bytes(file.content)
        outcome = read_alike(path, **file.keys)
        refused = isinstance(outcome, UserError)
        outcomes["refused" if refused else "read"] += 1
        if not isinstance(outcome, UserError):
            columns, records = outcome
            rows = [[values[name] for name in file.columns] for _, values, _ in records]
            assert (columns, rows) == (file.columns, file.rows), file

    check()
    assert outcomes["read"] > 3 * outcomes["refused"], outcomes


INSERTED = [b'"', b"\\", b"\n", b"\r", b"\0", b",", b"\t", b"\xff", b"{", b"]", b"NaN", b"\\ud800"]


def damaged(random: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """Bytes flipped, cut out, repeated, joined with another file, or in another encoding."""
    out = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(out) + 1)
        match random.randrange(7):
            case 0:
                out[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                out[at:at] = random.choice(INSERTED)
            case 2:
                del out[at:]
            case 3:
                del out[at : at + random.randint(1, 20)]
            case 4:
                out += random.choice(others)
            case 5:
                out[at:at] = out[at // 2 : at]
            case 6:
                codec = random.choice(["utf-16", "utf-8-sig", "cp1252", "utf-32", "utf-16-be"])
                out = bytearray(out.decode("latin-1").encode(codec, "replace"))
    return bytes(out)


def undamaged() -> dict[str, bytes]:
    """Files of all formats, to be damaged."""
    public = {name: file.content.encode(file.encoding) for name, file in PUBLIC.items()}
    cases = {path.name: path.read_bytes() for path in sorted(CASES.iterdir())}
    return public | cases | made_files()


def test_a_damaged_file_is_read_or_an_error_of_one_line(tmp_path: Path):
    names, contents = zip(*undamaged().items(), strict=True)
    keys: list[dict[str, Any]] = [{}, {}, {"quoting": "none"}, {"escapechar": "\\"}]
    keys += [{"header": False}, {"header": True, "quoting": "csv"}, {"encoding": "cp1252"}]
    keys += [{"format": "label_text"}, {"format": "json"}, {"encoding_errors": "replace"}]
    for number in range(FILES):
        draw = random.Random(number)
        which = draw.randrange(len(contents))
        path = tmp_path / f"x{''.join(Path(names[which]).suffixes)}"
        path.write_bytes(damaged(draw, contents[which], contents))
        try:
            read_alike(path, **draw.choice(keys))
        except Exception as error:
            raise AssertionError(f"file {number}, from {names[which]}") from error
        path.unlink()
