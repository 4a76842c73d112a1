"""Corpora in files: which file is which split, and rows out of csv, tsv, jsonl, json, parquet, and folders."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from glob import escape
from pathlib import Path
from typing import Any

from distsent.data.arrow import from_rows, reading
from distsent.data.rows import FILE, Columns, Part
from distsent.errors import UserError

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
FORMATS = (".parquet", ".csv", ".tsv", ".jsonl", ".json")
TREE = {"neg": 0, "pos": 1}  # aclImdb; its unsup folder has no labels and is never read
READER = "1 "  # raise it when what is read from the same file changes: datasets' cache does not look at code
_SPLIT_OF = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
_SHARD = re.compile(r"(?P<split>[A-Za-z]+)(-\d+-of-\d+)?")


def find(path: Path) -> Files | Tree:
    """The corpus at `path`: a file, a folder with a file (or numbered shards) for each split, or the aclImdb tree."""
    if not path.exists():
        raise UserError(f"data.source = {str(path)!r}: no such file or folder")
    if not path.is_dir():
        if path.suffix.lower() not in FORMATS:
            raise UserError(
                f"data.source = {str(path)!r}: not a format that can be read ({', '.join(FORMATS)})"
            )
        return Files(str(path), {"train": [path]})
    if (path / "aclImdb").is_dir():
        path = path / "aclImdb"
    if all((path / "train" / name).is_dir() for name in TREE):
        return Tree(path)
    for folder in (path, path / "data"):
        if files := _by_split(folder):
            return Files(str(path), files)
    there = sorted(entry.name for entry in path.iterdir())
    raise UserError(
        f"data.source = {str(path)!r}: no train, validation or test file ({', '.join(FORMATS)}), no aclImdb tree; the "
        f"folder holds {', '.join(there[:5]) + (', ...' if len(there) > 5 else '') if there else 'nothing'}"
    )


def _by_split(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        shard = _SHARD.fullmatch(path.stem)
        split = _SPLIT_OF.get(shard["split"].lower()) if shard else None
        if shard and split and path.suffix.lower() in FORMATS and path.is_file():
            found.setdefault(split, {}).setdefault(shard["split"] + path.suffix, []).append(path)
    for split, kinds in found.items():
        if len(kinds) > 1:
            twice = " and ".join(paths[0].name for paths in kinds.values())
            raise UserError(
                f"data.source = {str(folder)!r}: the {split} split stands there twice, as {twice}; keep one"
            )
    return {split: next(iter(found[split].values())) for split in SPLITS if split in found}


class Files:
    """A file or some shards for each split."""

    def __init__(self, name: str, files: dict[str, list[Path]]) -> None:
        self.name, self.files, self.splits = name, files, tuple(files)
        self._sha256 = cache(_sha256)

    def fingerprint(self) -> str:
        return hashlib.sha256(repr([
            (split, path.suffix.lower(), self._sha256(path)) for split, paths in self.files.items() for path in paths
        ]).encode()).hexdigest()  # fmt: skip

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(path.name, _columns(path)) for path in self.files[split]]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        return [self._part(path, columns, drop) for path in self.files[split]]

    def _part(self, path: Path, columns: Columns, drop: bool) -> Part:
        if path.suffix.lower() == ".parquet":
            return _parquet(path, columns)
        wanted = {
            "path": str(path),
            "columns": columns,
            "drop": drop,
            "content": READER + self._sha256(path),
        }
        return Part(
            path.name, from_rows(_rows, wanted, dict.fromkeys(columns.all, "string"), path.name)
        )


class Tree:
    """The aclImdb tree: a folder for each split, in it a folder for each class, in that a text a file."""

    def __init__(self, path: Path) -> None:
        self.name, self.path = str(path), path
        self.splits = tuple(
            split for split in SPLITS if all((path / split / name).is_dir() for name in TREE)
        )

    @cache  # noqa: B019  (a program has one corpus, and keeps it)
    def fingerprint(self) -> str:
        """Of names, sizes and times only: opening 50,000 files takes minutes on the file systems of clusters."""
        digest = hashlib.sha256(b"tree")
        for split in self.splits:
            for name in TREE:
                with os.scandir(self.path / split / name) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        stat = entry.stat()
                        digest.update(
                            f"{split}/{name}/{entry.name} {stat.st_size} {stat.st_mtime_ns}\n".encode()
                        )
        return digest.hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(split, ["text", "label"])]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        wanted = {"path": str(self.path), "split": split, "content": READER + self.fingerprint()}
        table = from_rows(
            _tree_rows, wanted, {"text": "string", "label": "int64", FILE: "string"}, self.name
        )
        return [Part(split, table, tuple(TREE))]


def _tree_rows(path: str, split: str, content: str) -> Iterator[dict[str, Any]]:
    for name, label in TREE.items():
        for file in sorted((Path(path) / split / name).glob("*.txt")):
            with _readable(file):
                yield {
                    "text": file.read_text(encoding="utf-8"),
                    "label": label,
                    FILE: f"{split}/{name}/{file.name}",
                }


def _parquet(path: Path, columns: Columns) -> Part:
    import pyarrow.parquet as parquet
    from datasets import ClassLabel, load_dataset

    with reading(path.name):
        if not parquet.read_metadata(path).num_rows:
            return Part(path.name, parquet.read_table(path, columns=list(columns.all)))
        pattern = escape(str(path.absolute()))  # datasets takes file names for glob patterns
        rows = load_dataset("parquet", data_files={"rows": [pattern]}, columns=list(columns.all))[
            "rows"
        ]
    kind = rows.features[columns.label]
    return Part(
        path.name, rows.data.table, tuple(kind.names) if isinstance(kind, ClassLabel) else None
    )


def _columns(path: Path) -> list[str]:
    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as parquet

        with reading(path.name):
            return parquet.read_schema(path).names
    with _readable(path):
        if path.suffix.lower() in (".csv", ".tsv"):
            with open(path, encoding="utf-8-sig", newline="") as file:
                return next(csv.reader(file, delimiter=_delimiter(path)), [])
        return [str(key) for key in next(_json_values(path), (1, {}))[1]]


def _delimiter(path: Path) -> str:
    """A tab in tsv; in csv a comma, or what spreadsheets of other countries write instead."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = file.readline()
    return max(",;\t", key=lambda mark: (head.count(mark), mark == ","))


def _rows(path: str, columns: Columns, drop: bool, content: str) -> Iterator[dict[str, str | None]]:
    """The rows of a text file. `content`, its hash, tells datasets' cache when to read again."""
    file = Path(path)
    values = _csv_values(file) if file.suffix.lower() in (".csv", ".tsv") else _json_values(file)
    for row, value in values:
        for column in columns.texts:
            text = value.get(column)
            if not isinstance(text, str | None):
                if not drop:
                    raise UserError(
                        f"{file.name}, row {row}: column {column!r} holds {_shown(text)}, not text"
                    )
                value[column] = None
        yield {column: value.get(column) for column in columns.texts} | {
            columns.label: normalize_label(value.get(columns.label))
        }


def _csv_values(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(sys.maxsize)  # the default refuses texts above 128 KiB
    row = 0
    with (
        _readable(path, lambda: f", after row {row}"),
        open(path, encoding="utf-8-sig", newline="") as file,
    ):
        reader = csv.reader(file, delimiter=_delimiter(path), strict=True)
        header = next(reader, [])
        for fields in filter(None, reader):
            row += 1
            if len(fields) != len(header):
                raise UserError(
                    f"{path.name}, row {row} (line {reader.line_num}): {len(fields)} fields where the header has "
                    f"{len(header)}; put quotes around texts that hold the delimiter"
                )
            yield row, dict(zip(header, fields, strict=True))


def _json_values(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    row = 0
    with _readable(path, lambda: f", row {row}"), open(path, encoding="utf-8-sig") as file:
        start = file.read(1)
        file.seek(0)
        # An array must be parsed as a whole; lines keep memory small.
        values = (
            json.load(file) if start == "[" else map(json.loads, filter(None, map(str.strip, file)))
        )
        row = 1
        for value in values:
            if not isinstance(value, dict):
                raise UserError(
                    f"{path.name}, row {row}: {_shown(value)} is not an object with columns"
                )
            yield row, value
            row += 1


def normalize_label(value: Any) -> str | None:
    """A label as text, one spelling each: 1, 1.0 and "1" are the same class. Nothing is None."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = value if isinstance(value, str) else json.dumps(value)
    return word[:-2] if re.fullmatch(r"-?\d+\.0", word) else word


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:37]}..."


class _readable:
    """Turns what goes wrong while reading text into one line with file and row."""

    def __init__(self, path: Path, where: Callable[[], str] = str) -> None:
        self.path, self.name, self.where = path, path.name, where

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        where = self.where()
        if isinstance(
            error, UnicodeDecodeError
        ):  # files are decoded in blocks: the reader does not know the line
            byte = error.object[error.start]
            raise UserError(
                f"{self.name}, line {_undecodable_line(self.path)}: not UTF-8 (byte 0x{byte:02x})"
            ) from None
        if isinstance(error, json.JSONDecodeError):
            raise UserError(
                f"{self.name}{where}: not JSON ({error.msg}, column {error.colno})"
            ) from None
        if isinstance(error, csv.Error):
            raise UserError(f"{self.name}{where}: not well-formed csv ({error})") from None
        if isinstance(error, OSError):
            raise UserError(f"{self.name}: cannot be read ({error.strerror})") from None


def _undecodable_line(path: Path) -> int:
    """The number of the first line that is not UTF-8, from 1."""
    number = 1
    with open(path, "rb") as file:
        for line in file:
            try:
                line.decode()
            except UnicodeDecodeError:
                break
            number += 1
    return number


def _sha256(path: Path) -> str:
    with _readable(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
