"""A folder for each class with a file per text (aclImdb), or a file for each class."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from distsent.data.files import Reading, RowSource
from distsent.data.layouts.split_names import ABOUT, split_in, words
from distsent.data.row_cache import Row, batches_of
from distsent.data.rows import FILE
from distsent.errors import UserError
from distsent.formats.compression import source_of
from distsent.formats.encodings import REPLACE, TextFiles
from distsent.formats.likely_encoding import diagnose
from distsent.formats.read_as import ReadAs
from distsent.formats.records import check_name, first_few, readable
from distsent.storage import entries, is_file, is_folder

# Words in file names that are classes beyond doubt: rt-polarity.pos, ham.txt
CLASSES = {"pos", "neg", "positive", "negative", "neutral", "spam", "ham"}
NO_CLASS = ("unsup",)  # the unlabeled reviews of aclImdb
COLUMNS, RATING = ["text", "label"], "rating"
RATED = re.compile(r"\d+_(\d+)\.txt", re.ASCII)  # 123_8.txt, as aclImdb notes a review's stars


def find_class_folders(folder: Path) -> dict[str, Path]:
    """The classes and their folders, if `folder` holds two or more folders of texts alone."""
    folders = [path for path in entries(folder) if is_folder(path)]
    folders = [path for path in folders if path.name not in NO_CLASS and path.name[0] not in "._"]
    fit = all(is_of_texts(path) and not split_in(path.name) for path in folders)
    return {path.name: path for path in folders} if fit and len(folders) > 1 else {}


def is_of_texts(folder: Path) -> bool:
    """Whether a folder holds texts alone: files called .txt, or without a suffix of letters."""
    files = [path for path in entries(folder) if path.name[0] not in "._"]
    return bool(files) and all(
        is_file(path) and (path.suffix.lower() == ".txt" or not path.suffix[1:].isalpha())
        for path in files
    )


def find_class_files(files: Sequence[Path]) -> dict[str | None, dict[str, Path]]:
    """For each split that the names say: the file of each class. Empty if they say no classes."""
    found: dict[str | None, dict[str, Path]] = {}
    for path in files:
        said = words(path.name.removesuffix(".txt"))
        classes = CLASSES.intersection(said)
        if len(classes) == 1:
            split, label = split_in(path.name), classes.pop()
            if label in found.setdefault(split, {}):
                return {}
            found[split][label] = path
    labels = set().union(*found.values())
    for paths in found.values():
        if lack := sorted(labels - set(paths)):
            some = next(iter(paths.values()))
            raise UserError(
                f"{some.parent}: a file of class {lack[0]} is missing beside {some.name}"
            )
    return found if len(labels) > 1 else {}


class ClassFolders(RowSource):
    """The texts of one split."""

    def __init__(self, classes: Mapping[str, Path], name: str, reading: Reading) -> None:
        super().__init__(name, reading)
        self._classes = dict(sorted(classes.items()))
        self.paths = (*self._classes.values(),)

    @cached_property
    def digest(self) -> str:
        """Of names, sizes and times: opening 50,000 files takes minutes on cluster storage."""
        digest = hashlib.sha256(b"class folders")
        for label, path in self._files:
            stat = path.stat()
            digest.update(f"{label}/{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    @cached_property
    def _entries(self) -> list[tuple[str, Path]]:
        """(class, file) for all that is in the folders: listing them takes long, too."""
        folders = [(label, entries(folder)) for label, folder in self._classes.items()]
        return [
            (label, path)
            for label, some in folders
            for path in some
            if path.name[0] not in "._" and check_name(f"{path.parent.name}/{path.name}")
        ]

    @property
    def _files(self) -> list[tuple[str, Path]]:
        return [(label, path) for label, path in self._entries if path.stem.lower() not in ABOUT]

    @property
    def notes(self) -> tuple[str, ...]:
        """A line about files that are not read, by their names."""
        about = {path.name for _, path in self._entries if path.stem.lower() in ABOUT}
        return (f"not read: {first_few(sorted(about))}",) if about else ()

    @cached_property
    def _ratings(self) -> list[str]:
        """The rating of each file, where the names of all files end with one."""
        found = [RATED.fullmatch(path.name) for _, path in self._files]
        return [match[1] for match in found if match] if all(found) else []

    def _columns(self) -> list[str]:
        return [*COLUMNS, *([RATING] if self._ratings else [])]

    def _read(self) -> tuple[pa.Schema, Iterable[pa.RecordBatch], dict[str, Any]]:
        self.refuse_lists()
        schema, options = self._schema(FILE), self.reading.options
        texts = TextFiles(options.encoding, options.encoding_errors)
        how = ReadAs("a file per text", None, {"encoding": texts.codec}, self.notes)
        return schema, batches_of(self._rows(texts), schema), self._about(how)

    def _rows(self, texts: TextFiles) -> Iterator[Row]:
        first: UserError | None = None
        faults = 0
        names = self.reading.columns.in_file(self._columns())
        rated = names.get(self.reading.columns.label) == RATING
        labels = self._ratings if rated else [label for label, _ in self._files]
        for label, (_, path) in zip(labels, self._files, strict=True):
            name = f"{self.name}/{path.parent.name}/{path.name}".removeprefix("./")
            with readable(name):
                content = path.read_bytes()
            try:
                text = texts.decode(name, content)
            except UnicodeDecodeError as error:
                fault = first or _explain(path, name, error, self.reading.options.encoding)
                first, faults = fault, faults + 1
                continue
            except UserError as error:
                first, faults = first or error, faults + 1
                continue
            if not first:
                yield _with_newlines(text), label, name
        if first:
            more = f" ({faults:,} files are like this)" if faults > 1 else ""
            raise UserError(f"{first}{more}", fix=first.fix, others=first.others)
        texts.check()


def _with_newlines(text: str) -> str:
    """The text with \\n as line end."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _explain(path: Path, name: str, error: UnicodeDecodeError, encoding: str) -> UserError:
    line = error.object[: error.start].count(b"\n") + 1
    fault = f"byte 0x{error.object[error.start]:02x}, line {line}"
    if encoding == "auto":
        return diagnose(source_of(path, name), fault)
    return UserError(f"{name}: not {encoding} ({fault}); {REPLACE}")
