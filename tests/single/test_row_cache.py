"""Rows that are kept between runs: never trusted when cut or damaged, read once by many."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from distsent.data import row_cache
from distsent.data.dataset import open_dataset
from distsent.errors import UserError
from tests.dataset_files import data, folder, mistakes, own_cache, reviews, write  # noqa: F401

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return folder(tmp_path / "x", ".csv", train=reviews(5000), test=reviews(7, 9000))


def texts(source: Path) -> list[str]:
    return open_dataset(data(source), 1).splits["train"].texts(slice(None))


def kept(cache: Path, suffix: str) -> Path:
    """The larger one of the kept files: that of train."""
    return max((cache / "distsent").glob(f"*{suffix}"), key=lambda path: path.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[str, Callable[[Path], None]]] = {
    "cut": (".arrow", lambda path: os.truncate(path, path.stat().st_size // 2)),
    "a bit flipped": (".arrow", flip),
    "empty": (".arrow", lambda path: os.truncate(path, 0)),
    "missing": (".arrow", Path.unlink),
    "no record": (".json", Path.unlink),
    "half a record": (".json", lambda path: os.truncate(path, 20)),
    "another record": (".json", lambda path: path.write_text("[]") and None),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_rows_are_read_again(source: Path, own_cache: Path, name: str, capfd):  # noqa: F811
    expected = texts(source)
    suffix, spoil = DAMAGE[name]
    spoil(kept(own_cache, suffix))
    assert texts(source) == expected == reviews(5000)["text"]
    said = capfd.readouterr().err.splitlines()
    if "missing" not in name and name != "no record":
        assert said == ["distsent: train.csv: its cached rows are damaged; reading it again"]
    assert texts(source) == expected and capfd.readouterr().err == ""


def test_rows_are_read_once(source: Path, monkeypatch: pytest.MonkeyPatch):
    expected = texts(source)
    monkeypatch.setattr("distsent.data.files.open_file", lambda *_: pytest.fail("opened again"))
    assert texts(source) == expected


def test_a_reader_that_fails_leaves_nothing(source: Path, own_cache: Path):  # noqa: F811
    write(source / "train.csv", {"text": ["a", "b"], "label": [1, 0]})
    with open(source / "train.csv", "a") as file:
        file.write("c,1,2\n")
    assert "row 3" in mistakes(lambda: texts(source))[0]
    assert not [path for path in own_cache.rglob("*") if path.suffix in (".arrow", ".json")]


def test_many_that_need_the_same_rows_read_them_once(tmp_path: Path):
    import pyarrow as pa

    schema, reads = pa.schema([("text", pa.string())]), []

    def read():
        reads.append(1)
        return (
            schema,
            row_cache.batches_of(((str(i),) for i in range(9000)), schema),
            {"a": 1},
        )

    found: list = []
    work = lambda: found.append(row_cache.load_or_write("key", "x.csv", read))  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reads) == 1 and {rows.table.num_rows for rows in found} == {9000}
    assert [rows.about for rows in found] == [{"a": 1}] * 4


def test_leftovers_of_killed_readers_are_deleted(source: Path, own_cache: Path):  # noqa: F811
    texts(source)
    rows = kept(own_cache, ".arrow")
    old, new = (rows.with_name(f".{rows.name}.{i}-0abc") for i in range(2))
    for path in (old, new):
        path.write_text("half")
    os.utime(old, (0, 0))
    rows.unlink()
    texts(source)
    assert not old.exists() and new.exists()


def test_a_cache_that_cannot_be_written_is_one_line(source: Path, own_cache: Path):  # noqa: F811
    own_cache.mkdir()
    (own_cache / "distsent").write_text("a file")
    with pytest.raises(
        UserError, match=r"the cache of its rows, .*cannot be written .*HF_DATASETS"
    ):
        texts(source)
