"""Texts and labels in two files, line by line: train_text.txt and train_labels.txt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from distsent.data.files import Reading, RowSource, sha256
from distsent.data.layouts.class_files import COLUMNS
from distsent.data.layouts.split_names import inside, split_called, split_in, words
from distsent.data.row_cache import Row, batches_of
from distsent.data.row_check import RowCheck
from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.formats.read_as import ReadAs
from distsent.formats.records import check_name, decode_error, readable, shorten
from distsent.job.keys import to_toml_value
from distsent.storage import entries, is_file, is_folder

TEXTS = {"text", "texts", "sentence", "sentences", "sent", "sents", "x"}  # and seq.in
LABELS = {
    *("label", "labels", "sentiment", "sentiments", "class", "classes", "topic", "topics"),
    *("target", "targets", "y"),
}
NAMES = "mapping.txt"  # beside them, in TweetEval: number, tab, name


def find_parallel_files(
    files: Sequence[Path], root: Path
) -> dict[str | None, tuple[Path, Path | None]]:
    """For each split that the names say: texts, labels. Raises UserError for two files of one.

    `root`: the folder that keys such as data.train are relative to.
    A test split may have no labels. Empty if the files are not texts and labels.
    """
    found: dict[str | None, dict[str, list[Path]]] = {}
    for path in files:
        said = {*words(path.name), *(["text"] if path.suffix == ".in" else [])}
        for kind, known in (("text", TEXTS), ("label", LABELS)):
            if said & known and not said & (LABELS if kind == "text" else TEXTS):
                found.setdefault(split_in(path.name), {}).setdefault(kind, []).append(path)
    if not any(len(kinds) == 2 for kinds in found.values()):
        return {}
    for split, kinds in found.items():
        for kind, paths in kinds.items():
            if len(paths) > 1:
                names = " and ".join(path.name for path in paths)
                chosen = {kind: inside(some[0], root) for kind, some in kinds.items()}
                shown = to_toml_value(dict(sorted(chosen.items(), reverse=True)))
                ways = _ways(kinds, split, root)
                raise UserError(
                    f"{paths[0].parent}: {names} may all be {kind}s; "
                    f"data.{split or 'train'} = {shown} names two",
                    fix=ways[0] if ways else None,
                    others=ways[1:],
                )
    return {
        split: (kinds["text"][0], kinds["label"][0] if "label" in kinds else None)
        for split, kinds in found.items()
        if "text" in kinds
    }


def _ways(
    kinds: Mapping[str, Sequence[Path]], split: str | None, root: Path
) -> list[dict[str, dict[str, str]]]:
    """For each file of labels the keys that name it, in the folders of all splits alike."""
    texts, labels = kinds.get("text", ()), kinds.get("label", ())
    if len(texts) != 1:
        return []
    folder = texts[0].parent
    places = {split or "train": folder}
    if split is None and folder != root:
        named = {split_called(place.name): place for place in entries(folder.parent)}
        places = {name: place for name, place in named.items() if name and is_folder(place)}
    return [
        {
            f"data.{name}": {
                "text": inside(place / texts[0].name, root),
                "label": inside(place / label.name, root),
            }
            for name, place in places.items()
            if is_file(place / texts[0].name) and is_file(place / label.name)
        }
        for label in labels
    ]


class ParallelFiles(RowSource):
    """A file of texts and a file of their labels, a line each."""

    def __init__(self, paths: tuple[Path, Path], names: tuple[str, str], reading: Reading) -> None:
        super().__init__(names[0], reading)
        self.paths, self._labels_name = paths, check_name(names[1])
        mapping = paths[1].parent / NAMES
        self._mapping = mapping if is_file(mapping) else None

    @cached_property
    def digest(self) -> str:
        paths = [*self.paths, *([self._mapping] if self._mapping else [])]
        return " ".join(["parallel", *(sha256(path, path.name) for path in paths)])

    def _columns(self) -> list[str]:
        return COLUMNS

    def _read(self) -> tuple[pa.Schema, Iterable[pa.RecordBatch], dict[str, Any]]:
        schema, names = self._schema(), None
        if self._mapping:
            names = read_mapping(self._mapping, self._labels_name)
        how = ReadAs("lines", None, {"labels": self._labels_name})
        return schema, batches_of(self._rows(), schema), self._about(how, names)

    def _rows(self) -> Iterator[Row]:
        options = replace(self.reading.options, format="lines")
        names = (self.name, self._labels_name)
        with ExitStack() as stack:
            readers = [
                stack.enter_context(open_file(File(path, name, options, strict=True)))
                for path, name in zip(self.paths, names, strict=True)
            ]
            counts = [0, 0]
            check = RowCheck(self.name, COLUMNS, self.reading.columns, self.reading.drop)
            for pair in zip_longest(*(reader.records(()) for reader in readers)):
                counts = [n + (row is not None) for n, row in zip(counts, pair, strict=True)]
                if all(pair):
                    row, text, _ = pair[0]
                    yield check(row, [text], [pair[1][1]])
        if counts[0] != counts[1]:
            found = f"{self.name} has {counts[0]:,} lines, {self._labels_name} {counts[1]:,}"
            raise UserError(f"{found}: they belong together line by line, so one of them is wrong")


def read_mapping(path: Path, labels: str) -> list[str]:
    """The names of the labels 0, 1, 2, ... Raises UserError for another file."""
    with readable(path.name):
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    if error := decode_error(text):
        raise UserError(f"{path.name}, beside {labels}: {error}; convert it to UTF-8")
    lines = [line for line in text.splitlines() if line.strip()]
    fields = [[field.strip() for field in line.split("\t")] for line in lines]
    numbers = [some[0] for some in fields]
    names = [some[1] for some in fields if len(some) > 1]
    if numbers != [str(i) for i in range(len(fields))] or len(set(names)) < len(fields):
        found = f"{shorten(lines[0])} in the first line" if lines else "no line"
        raise UserError(
            f"{path.name}, beside {labels}: expected a number from 0, a tab and a name per line, "
            f"found {found}; correct or remove it"
        )
    return names
