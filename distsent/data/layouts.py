"""Which files are which split: those that a job names, or those that names and folders show.

Nothing is guessed. Where two readings are possible, the error shows the key that decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any

from distsent.data.class_files import ClassFolders, find_class_files, find_class_folders
from distsent.data.files import Files, Reading, RowSource, TableFile
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
from distsent.formats.records import first_few, shorten
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection

Splits = dict[str, list[RowSource]]
DEEPEST = 3  # folders inside each other that hold nothing else


def find_files(data: DataSection, path: Path | None, reading: Reading) -> Files:
    """The dataset at `path`, a file or a folder, or that which data.train names alone."""
    if path and not path.exists():
        raise UserError(f"data.source = {str(path)!r}: no such file or folder")
    named = {split: getattr(data, split) for split in SPLITS if getattr(data, split) is not None}
    if path and path.is_dir():
        folder = Folder(path, path, reading)
        found = find_by_name(folder, named)
    else:
        folder, found = Folder(Path(), Path(), reading), {}
        if path and (parts := split_keys(path, reading)):
            return Files(_parts(folder, path, parts, named), folder.notes)
        if path and "train" not in named:
            check_shards([path], f"data.source = {str(path)!r}", "name their folder")
            found = {"train": [TableFile(path, path.name, reading)]}
        elif path:
            fix = "leave one of them out"
            raise UserError(f"data.train: data.source = {str(path)!r} is the training file; {fix}")
    found |= {split: named_rows(split, value, folder) for split, value in named.items()}
    check_overlap(found)
    return Files(found, folder.notes)


def split_keys(path: Path, reading: Reading) -> list[str]:
    """The splits that a JSON file holds as keys; none if it is no such file."""
    is_json = data_suffix(path) == ".json" or reading.options.format == "json"
    return [*parts_of(path, path.name, reading.options)] if is_json else []


def _parts(folder: Folder, path: Path, parts: list[str], named: Mapping[str, Any]) -> Splits:
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
                return _parts(place, lone, parts, {})
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


def named_rows(split: str, value: str | Sequence[str] | Mapping, folder: Folder) -> list[RowSource]:
    """The rows that data.train, data.validation or data.test names, relative to a folder."""
    if isinstance(value, Mapping):
        paths = {key: _matching(split, pattern, folder) for key, pattern in value.items()}
        if set(paths) == {"text", "label"}:
            (texts,), (labels,) = paths["text"], paths["label"]
            return [folder.parallel(texts, labels)]
        classes = {k: some[0] for k, some in paths.items() if some[0].is_dir()}
        rows = [folder.table(p, k) for k, some in paths.items() for p in some if p.is_file()]
        return [*rows, *([ClassFolders(classes, ".", folder.reading)] if classes else [])]
    out: list[RowSource] = []
    patterns = [value] if isinstance(value, str) else value
    for path in dict.fromkeys(p for pattern in patterns for p in _matching(split, pattern, folder)):
        if path.is_file():
            out.append(folder.table(path))
        elif rows := find_rows(folder.inner(path), inside=True):
            out += rows
        else:
            raise UserError(f"data.{split} = {shorten(value)}: {path} is a folder without rows")
    return out


def _matching(split: str, pattern: str, folder: Folder) -> list[Path]:
    """The files of a pattern, sorted, or the file or folder of this name."""
    path = folder.path / Path(pattern).expanduser()
    if path.exists():
        return [path]
    found = sorted(p for p in map(Path, glob(str(path), recursive=True)) if p.is_file())
    key = f"data.{split} = {to_toml_value(pattern)}"
    if not found:
        raise UserError(f"{key}: no such file in {folder.path}; there are {folder.shown()}")
    check_shards(found, key, "get them, or name the files")
    return found


def check_overlap(splits: Splits) -> None:
    """Raises UserError if a file is in two splits: scores on its rows would be too high."""
    seen: dict[Path, str] = {}
    for split, rows in splits.items():
        for path in (path.resolve() for one in rows for path in one.paths):
            if (other := seen.setdefault(path, split)) != split:
                fix = f"data.{other} and data.{split} name the files of each"
                raise UserError(
                    f"{path.name} is both in the {other} and in the {split} split; {fix}"
                )
