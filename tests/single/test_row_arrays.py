"""Arrays of all rows: in blocks and files they are what they are in memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distsent.data import row_arrays, splits
from distsent.data.checks import find_repeated_texts
from distsent.data.dataset import TextDataset, open_dataset
from distsent.data.labels.names import Naming
from distsent.data.row_arrays import row_array
from distsent.data.rows import Columns, Part
from distsent.errors import UserError
from distsent.job.schema import DataSection
from tests.dataset_files import data, folder


def uneven(count: int, twice: int = 7) -> dict[str, list[Any]]:
    """Rows of classes of different sizes; some without text or label, some texts twice."""
    texts = [f"a film {i if i % twice else i // 2}" if i % 11 else None for i in range(count)]
    return {"text": texts, "label": [("a", "b", "c", "d")[i**2 % 13 % 4] for i in range(count)]}


KEYS: list[dict[str, Any]] = [
    {},
    {"validation_fraction": 0.2, "test_fraction": 0.1, "pool_splits": True},
    {"max_rows": 30, "max_eval_rows": 5, "pool_splits": True, "validation_fraction": 0.3},
    {"drop_labels": ("b",), "max_rows": 3},
]


@pytest.mark.parametrize("keys", KEYS, ids=range(len(KEYS)))
def test_blocks_and_files_change_nothing(keys: dict, tmp_path: Path, monkeypatch):
    where = folder(tmp_path / "x", ".jsonl", train=uneven(150), test=uneven(40))
    job = data(where, drop_bad_rows=True, **keys)

    def contents() -> tuple[Any, ...]:
        found = open_dataset(job, 1)
        arrays = {
            name: [getattr(split, what).tolist() for what in ("rows", "labels", "hashes")]
            for name, split in found.splits.items()
        }
        return arrays, found.find_warnings()

    expected = contents()
    monkeypatch.setattr(row_arrays, "BLOCK", 7)
    monkeypatch.setattr(row_arrays, "MOST_BYTES", 50)
    monkeypatch.setattr(splits, "CELLS", 9)
    assert contents() == expected


class Table:
    """A source of many rows."""

    splits, notes = ("train",), ()

    def __init__(self, count: int) -> None:
        texts = pa.array([f"text {i}" for i in range(50)])
        table = pa.table(
            {
                "text": texts.take(pa.array(np.arange(count) % 50)),
                "label": pa.array(["a", "b"]).take(pa.array(np.arange(count) % 2)),
            }
        )
        self._part = Part("x", pa.Table.from_batches(table.to_batches(4096)))

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [("x", ["text", "label"])]

    def parts(self, split: str, columns: Columns) -> list[Part]:
        return [self._part]

    def fingerprint(self) -> str:
        return ""


def test_memory_does_not_grow_with_the_rows(monkeypatch):
    monkeypatch.setattr(row_arrays, "BLOCK", 1 << 12)
    monkeypatch.setattr(row_arrays, "MOST_BYTES", 1 << 12)
    section = DataSection(source="x", validation_fraction=0.2, max_rows=20_000)

    def peak(count: int) -> int:
        source: Any = Table(count)
        tracemalloc.start()
        dataset = TextDataset(section, 1, source, Naming())
        assert len(dataset.splits["validation"]) == count / 5 and dataset.find_warnings()
        try:
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1000)  # imports, and what is kept
    assert peak(200_000) - peak(40_000) < 0.5 * 160_000


def test_texts_in_train_are_counted_in_any_order(monkeypatch):
    monkeypatch.setattr(row_arrays, "BLOCK", 3)
    rng = np.random.default_rng(1)
    train, test = (rng.integers(0, 30, n).astype(np.uint64) for n in (20, 25))
    same = int(np.isin(test, train).sum())
    (line,) = find_repeated_texts({"train": train, "test": test})
    assert line.startswith(f"test: {same} of 25 texts are in train, too")


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch):
    from datasets import config

    (tmp_path / "file").write_text("")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "file")
    monkeypatch.setattr(row_arrays, "MOST_BYTES", 8)

    def pieces() -> Iterator[np.ndarray]:
        yield np.arange(4)

    with pytest.raises(UserError, match=r"cannot be written .*set HF_DATASETS_CACHE to another"):
        row_array(np.int64, pieces())
