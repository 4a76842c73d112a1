"""Which files are which split, as far as names and folders show it.

Nothing is guessed. Where two readings are possible, the error shows the key that decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distsent.data.class_files import ClassFolders, find_class_files, find_class_folders
from distsent.data.files import Reading, RowSource, TableFile
from distsent.data.parallel_files import ParallelFiles, find_parallel_files
from distsent.data.saved_dataset import find_saved_files, find_saved_splits
from distsent.data.split_names import (
    SPLITS,
    check_shards,
    choose_splits,
    set_of,
    split_called,
    split_in,
    words,
)
from distsent.errors import UserError
from distsent.formats.compression import data_suffix
from distsent.formats.json_rows import parts_of
from distsent.formats.open import TABLES
from distsent.formats.records import first_few
from distsent.job.keys import to_toml_value

Splits = dict[str, list[RowSource]]
DEEPEST = 3  # folders inside each other that hold nothing else


def split_keys(path: Path, reading: Reading) -> list[str]:
    """The splits that a JSON file holds as keys; none if it is no such file."""
    is_json = data_suffix(path) == ".json" or reading.options.format == "json"
    return [*parts_of(path, path.name, reading.options)] if is_json else []


def parts_of_file(folder: Folder, path: Path, parts: list[str], named: Mapping[str, Any]) -> Splits:
    chosen = choose_splits(named, parts, f"data.source = {str(path)!r}")
    used = [name for names in chosen.values() for name in names]
    if others := [name for name in parts if name not in used]:
        folder.notes.append(f"{path.name}: not read: {first_few(others)}")
    return {
        split: [TableFile(path, path.name, folder.reading, part=name) for name in names]
        for split, names in chosen.items()
    }


@dataclass(frozen=True)
class Folder:
    """A folder that is searched. Messages name its files as they lie in `base`."""

    path: Path
    base: Path
    reading: Reading
    notes: list[str] = field(default_factory=list)  # what the user should know

    def inner(self, path: Path) -> Folder:
        return replace(self, path=path)

    @property
    def files(self) -> list[Path]:
        return [path for path in self._entries() if path.is_file()]

    @property
    def folders(self) -> list[Path]:
        return [path for path in self._entries() if path.is_dir()]

    @property
    def tables(self) -> list[Path]:
        """Files whose names say that they have columns, but for forms of a competition."""
        return [
            path
            for path in self.files
            if data_suffix(path) in TABLES and "submission" not in words(path.name)
        ]

    @property
    def texts(self) -> list[Path]:
        return [path for path in self.files if data_suffix(path) not in TABLES]

    def _entries(self) -> list[Path]:
        return [path for path in sorted(self.path.iterdir()) if path.name[0] not in "._"]

    def name(self, path: Path) -> str:
        inside = self.base in (path, *path.parents)
        return str(path.relative_to(self.base)) if inside else str(path)

    def table(self, path: Path, label: str | None = None) -> RowSource:
        return TableFile(path, self.name(path), self.reading, label)

    def parallel(self, texts: Path, labels: Path) -> RowSource:
        names = self.name(texts), self.name(labels)
        return ParallelFiles((texts, labels), names, self.reading)

    def error(self, problem: str) -> UserError:
        return UserError(f"data.source = {str(self.path)!r}: {problem}")

    def shown(self) -> str:
        return first_few([path.name for path in self._entries()]) or "nothing"


def find_by_name(folder: Folder, named: Collection[str] = (), depth: int = 0) -> Splits:
    """The splits in a folder, but those that the job has `named`."""
    wanted = [split for split in SPLITS if split not in named]
    inside = [folder.path / name for name in ("aclImdb", "data")]
    places = [folder, *(replace(folder, path=p, base=p) for p in inside if p.is_dir())]
    for place in places:
        if found := find_splits(place, wanted):
            return found
    if named:
        return {}
    for place in places:
        if rows := find_rows(place):
            lone = rows[0].paths[0]
            if len(rows) == 1 and lone.is_file() and (parts := split_keys(lone, folder.reading)):
                return parts_of_file(place, lone, parts, {})
            return {"train": rows}
    if len(folder.folders) == 1 and depth < DEEPEST:
        only = folder.folders[0]
        return find_by_name(replace(folder, path=only, base=only), named, depth + 1)
    if sets := [path for path in folder.folders if _tables(folder.inner(path), wanted)]:
        fix = f"data.source = {to_toml_value(str(sets[0]))} names one"
        raise folder.error(f"several datasets, {first_few([p.name for p in sets])}; {fix}")
    lack = f"no train, validation or test file ({', '.join(TABLES)})"
    fix = f'data.train = "{folder.files[0].name if folder.files else "FILE"}" names the file'
    raise folder.error(f"{lack}; the folder contains {folder.shown()}; {fix}")


def find_splits(folder: Folder, wanted: Sequence[str]) -> Splits:
    """Those of the `wanted` splits that a folder has under their names."""
    for find in (_saved, _parallel, _class_files, _tables, _folders):
        if found := find(folder, wanted):
            return found
    return {}


def _saved(folder: Folder, wanted: Sequence[str]) -> Splits:
    saved = find_saved_splits(folder.path) or {}
    return {s: [folder.table(path) for path in saved[s]] for s in wanted if s in saved}


def _parallel(folder: Folder, wanted: Sequence[str]) -> Splits:
    found = find_parallel_files(folder.texts)
    pairs = {split: found[split] for split in wanted if split in found}
    for split, (texts, labels) in pairs.items():
        if labels is None:
            folder.notes.append(f"{split}: {texts.name} has no file of labels; not used")
    return {s: [folder.parallel(x, y)] for s, (x, y) in pairs.items() if y is not None}


def _class_files(folder: Folder, wanted: Sequence[str]) -> Splits:
    found = find_class_files(folder.texts)
    return {
        split: [folder.table(path, label) for label, path in sorted(found[split].items())]
        for split in wanted
        if split in found
    }


def _tables(folder: Folder, wanted: Sequence[str]) -> Splits:
    """Files that are called like splits; if one is not there, a file with the word in its name."""
    texts = [path for path in folder.texts if path.suffix.lower() == ".txt"]
    sets: dict[tuple[str, str], list[Path]] = {}
    for path in (*folder.tables, *texts):
        sets.setdefault(set_of(path), []).append(path)
    called = {key: split_called(key[0]) for key in sets}
    found: dict[str, list[Path]] = {}
    for split in wanted:
        some = [paths for key, paths in sets.items() if called[key] == split]
        if not some and ("train" in called.values() or not any(called.values())):
            words_say = [key for key in sets if not called[key] and split_in(key[0]) == split]
            tables = [key for key in words_say if key[1] != ".txt"]
            some = [sets[key] for key in tables or words_say]
        if len(some) > 1:
            names = [paths[0].name for paths in some]
            fix = f'keep one, or choose: data.{split} = "{names[0]}"'
            raise folder.error(f"the {split} split exists twice, as {' and '.join(names)}; {fix}")
        found |= {split: some[0]} if some else {}
    if "train" in wanted and "train" not in found and not any(called.values()):
        return {}
    for paths in found.values():
        check_shards(paths, f"data.source = {str(folder.path)!r}", "get them, too")
    taken = [path for paths in found.values() for path in paths]
    unread = [folder.name(path) for path in folder.files if data_suffix(path) in TABLES]
    if found and (others := [name for name in unread if folder.path / name not in taken]):
        folder.notes.append(f"not read: {first_few(others)}")
    return {split: [folder.table(path) for path in paths] for split, paths in found.items()}


def _folders(folder: Folder, wanted: Sequence[str]) -> Splits:
    """Folders that are called like splits."""
    for says in (split_called, split_in):
        found: dict[str, list[Path]] = {}
        for path in folder.folders:
            if (split := says(path.name)) and split in wanted:
                found.setdefault(split, []).append(path)
        rows = {}
        for split, paths in found.items():
            if len(paths) > 1:
                names = " and ".join(path.name for path in paths)
                fix = f'data.{split} = "{paths[0].name}" names one'
                raise folder.error(f"{names} may both be the {split} split; {fix}")
            if some := find_rows(folder.inner(paths[0]), inside=True):
                rows[split] = some
        if rows:
            return rows
    return {}


def find_rows(folder: Folder, inside: bool = False) -> list[RowSource]:
    """The rows in a folder that holds one split; none if it has no files of rows.

    `inside`: the folder is a split by its name, so that a text in it is not about the dataset.
    """
    path = folder.path
    if (path / "state.json").is_file():
        return [folder.table(file) for file in find_saved_files(path)]
    if not folder.tables and (classes := find_class_folders(path)):
        return [ClassFolders(classes, folder.name(path), folder.reading)]
    if len(pairs := find_parallel_files(folder.texts)) == 1:
        ((texts, labels),) = pairs.values()
        return [folder.parallel(texts, labels)] if labels else []
    if len(classed := find_class_files(folder.texts)) == 1:
        (files,) = classed.values()
        return [folder.table(file, label) for label, file in sorted(files.items())]
    texts_inside = [file for file in folder.texts if inside and file.suffix.lower() == ".txt"]
    tables = folder.tables or texts_inside
    if len({set_of(file) for file in tables}) > 1:
        raise folder.error(_several(folder, tables))
    check_shards(tables, f"data.source = {str(path)!r}", "get them, too")
    if others := [file.name for file in folder.files if "submission" in words(file.name)]:
        folder.notes.append(f"not read: {first_few(others)}")
    return [folder.table(file) for file in tables]


def _several(folder: Folder, tables: Sequence[Path]) -> str:
    names = [folder.name(path) for path in tables]
    classes = {Path(name).stem: name for name in names[:5]}
    return (
        f"which of {first_few(names)} are training rows? data.train = {to_toml_value(names[0])} "
        f"names them; data.train = {to_toml_value(classes)} if each file is a class"
    )
