"""Datasets for tests: a few rows in any format, a tiny tokenizer, and a [data] section."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as parquet
import pytest
from transformers import BertTokenizerFast, PreTrainedTokenizerBase

from distsent.errors import UserError
from distsent.job.schema import DataSection
from tests.spreadsheet_files import write_xlsx

Columns = Mapping[str, Sequence[Any]]

WORDS = ("good", "bad", "film", "very", "not", "the", "a", "plot", "was", "dull")


def data(source: Path | str, **keys: Any) -> DataSection:
    """A [data] section."""
    return DataSection(source=str(source), **keys)


def write(path: Path, columns: Columns) -> Path:
    """A file of rows in the format that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix in (".parquet", ".pq"):
        parquet.write_table(pa.table(dict(columns)), path)
    elif path.suffix in (".arrow", ".feather"):
        feather.write_feather(pa.table(dict(columns)), path)
    elif path.suffix == ".xlsx":
        write_xlsx(path, {"Sheet1": [[*columns], *([*row.values()] for row in rows)]})
    elif path.suffix in (".jsonl", ".ndjson", ".jl"):
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerow(columns)
            writer.writerows(row.values() for row in rows)
    return path


def folder(path: Path, suffix: str = ".parquet", **splits: Columns) -> Path:
    """A folder with a file for each split."""
    for name, columns in splits.items():
        write(path / f"{name}{suffix}", columns)
    return path


def reviews(n: int, start: int = 0) -> Columns:
    """n different texts, every other one of class 1."""
    texts = [
        f"the film {i} was {'good' if i % 2 else 'dull'}, {'very ' * (i % 5)}so"
        for i in range(start, start + n)
    ]
    return {"text": texts, "label": [i % 2 for i in range(start, start + n)]}


def tokenizer(**keys: Any) -> PreTrainedTokenizerBase:
    """WordPiece over a few words and all letters and digits."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789,."]
    pieces = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *WORDS,
        *letters,
        *(f"##{letter}" for letter in letters),
    ]
    return BertTokenizerFast(
        vocab={piece: i for i, piece in enumerate(dict.fromkeys(pieces))}, **keys
    )


def mistakes(work: Callable[[], object]) -> list[str]:
    """The lines of the UserError that `work` ends with."""
    with pytest.raises(UserError) as caught:
        work()
    return list(caught.value.lines)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """datasets' cache in a folder of the test's own."""
    import datasets

    cache = tmp_path / "datasets cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(cache))
    return cache
