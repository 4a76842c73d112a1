"""Datasets in files: which file is which split, and their rows as Arrow tables."""

import hashlib
import re
from collections.abc import Iterator
from functools import cache
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

from distsent.data.arrow import explained, part_of_dataset, table_from_rows
from distsent.data.column_choice import SAMPLE, Column
from distsent.data.labels import normalize_label
from distsent.data.rows import FILE, Columns, Part
from distsent.errors import UserError
from distsent.formats.open import TABLES, open_file
from distsent.formats.records import decode_error, first_few, readable, text_error

SPLITS = ("train", "validation", "test")
ALIASES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation"}
TREE = {"neg": 0, "pos": 1}  # aclImdb; its unsup folder has no labels and is not read
# Raise it when the reader gets other rows from the same file: the cache does not look at code
READER = "1 "
_SPLIT_OF = {**{split: split for split in SPLITS}, **ALIASES}
_SHARD = re.compile(r"(?P<split>[A-Za-z]+)(-\d+-of-\d+)?")


def find_files(path: Path) -> "Files | Tree":
    """The dataset at `path`: a file, a folder with files (or shards) per split, or aclImdb."""
    source, formats = f"data.source = {str(path)!r}", ", ".join(TABLES)
    if not path.exists():
        raise UserError(f"{source}: no such file or folder")
    if not path.is_dir():
        if path.suffix.lower() not in TABLES:
            raise UserError(f"{source}: not a known format ({formats})")
        return Files({"train": [path]})
    if (path / "aclImdb").is_dir():
        path = path / "aclImdb"
    if all((path / "train" / name).is_dir() for name in TREE):
        return Tree(path)
    for folder in (path, path / "data"):
        if files := _files_by_split(folder):
            return Files(files)
    found = first_few(sorted(entry.name for entry in path.iterdir())) or "nothing"
    lack = f"no train, validation or test file ({formats}), no aclImdb tree"
    raise UserError(f"{source}: {lack}; the folder contains {found}")


def _files_by_split(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        shard = _SHARD.fullmatch(path.stem)
        split = _SPLIT_OF.get(shard["split"].lower()) if shard else None
        if shard and split and path.suffix.lower() in TABLES and path.is_file():
            found.setdefault(split, {}).setdefault(shard["split"] + path.suffix, []).append(path)
    for split, kinds in found.items():
        if len(kinds) > 1:
            where = f"data.source = {str(folder)!r}: the {split} split exists twice"
            twice = " and ".join(paths[0].name for paths in kinds.values())
            raise UserError(f"{where}, as {twice}; keep one")
    return {split: next(iter(found[split].values())) for split in SPLITS if split in found}


class Files:
    """One file or several shards per split."""

    def __init__(self, files: dict[str, list[Path]]) -> None:
        self.files, self.splits = files, tuple(files)
        self._sha256 = cache(_sha256)

    def fingerprint(self) -> str:
        """Hash of the content, which does not depend on its location."""
        files = [(split, path) for split, paths in self.files.items() for path in paths]
        content = [(split, path.suffix.lower(), self._sha256(path)) for split, path in files]
        return hashlib.sha256(repr(content).encode()).hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        """(file, its columns) for each file of the split."""
        out = []
        for path in self.files[split]:
            with open_file(path, path.name, strict=True) as reader:
                if reader.columns is None:
                    next(reader.records(()), None)  # raises the error of the first row
                out.append((path.name, reader.columns or []))
        return out

    def sample(self, split: str) -> list[tuple[str, list[Column]]]:
        """(file, its columns with some values) for each file of the split."""
        return [(path.name, sample_columns(path)) for path in self.files[split]]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        """A part for each file. Values that are not text are null if `drop`, else errors."""
        return [self._part(path, columns, drop) for path in self.files[split]]

    def _part(self, path: Path, columns: Columns, drop: bool) -> Part:
        if path.suffix.lower() == ".parquet":
            return _parquet_part(path, columns)
        content = READER + self._sha256(path)
        wanted = {"path": str(path), "columns": columns, "drop": drop, "content": content}
        types = dict.fromkeys(columns.all, "string")
        return Part(path.name, table_from_rows(_rows, wanted, types, path.name))


class Tree:
    """The aclImdb tree: a folder per split, in it a folder per class with one file per text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.splits = tuple(s for s in SPLITS if all((path / s / name).is_dir() for name in TREE))

    @cache  # noqa: B019  (a program has one dataset, and keeps it)
    def fingerprint(self) -> str:
        """Of names, sizes and times: opening 50,000 files takes minutes on cluster storage."""
        digest = hashlib.sha256(b"tree")
        for split in self.splits:
            for name in TREE:
                for path in sorted((self.path / split / name).iterdir()):
                    stat, file = path.stat(), f"{split}/{name}/{path.name}"
                    digest.update(f"{file} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(split, ["text", "label"])]

    def sample(self, split: str) -> list[tuple[str, list[Column]]]:
        return [(split, [Column("text"), Column("label")])]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        wanted = {"path": str(self.path), "split": split, "content": READER + self.fingerprint()}
        types = {"text": "string", "label": "int64", FILE: "string"}
        return [Part(split, table_from_rows(_tree_rows, wanted, types, str(self.path)), (*TREE,))]


def _tree_rows(path: str, split: str, content: str) -> Iterator[dict[str, Any]]:
    for name, label in TREE.items():
        for file in sorted((Path(path) / split / name).glob("*.txt")):
            with readable(file.name):
                text = file.read_text(encoding="utf-8", errors="surrogateescape")
            for number, line in enumerate(text.split("\n"), 1):
                if error := decode_error(line, number):
                    raise UserError(f"{file.name}: {error}")
            yield {"text": text, "label": label, FILE: f"{split}/{name}/{file.name}"}


def sample_columns(path: Path) -> list[Column]:
    """The columns of a file with the values of its first rows. Its bad rows are passed over."""
    with open_file(path, path.name) as reader:
        columns = [Column(name) for name in reader.columns or ()]
        rows = islice(reader.records([column.name for column in columns]), SAMPLE)
        good = [values for _, values, error in rows if not error and isinstance(values, dict)]
    for column in columns:
        column.add([values.get(column.name) for values in good])
    return columns


def _parquet_part(path: Path, columns: Columns) -> Part:
    import pyarrow.parquet as parquet
    from datasets import load_dataset

    names = list(columns.all)
    with explained(path.name):
        if not parquet.read_metadata(path).num_rows:
            return Part(path.name, parquet.read_table(path, columns=names))
        pattern = escape(str(path.absolute()))  # datasets takes file names for glob patterns
        rows = load_dataset("parquet", data_files={"rows": [pattern]}, columns=names)["rows"]
    return part_of_dataset(path.name, rows, columns.label)


def _rows(path: str, columns: Columns, drop: bool, content: str) -> Iterator[dict[str, Any]]:
    """The rows of a file. `content`: its hash, so that the cache knows when to read again."""
    name = Path(path).name
    for row, values, _ in open_file(Path(path), name, strict=True).records(columns.all):
        out = {column: values.get(column) for column in columns.texts}
        out[columns.label] = normalize_label(values.get(columns.label))
        for column, value in out.items():
            if value is not None and (error := text_error(value)):
                if not drop:
                    raise UserError(f"{name}, row {row}: column {column!r}: {error}")
                out[column] = None
        yield out


def _sha256(path: Path) -> str:
    with readable(path.name), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
