"""Which files are which split, as far as names and folders show it.

Nothing is guessed. Where two readings are possible, the error shows the key that decides.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distsent.data.files import Reading, RowSource, TableFile
from distsent.data.layouts.class_files import (
    ClassFolders,
    check_others,
    find_class_files,
    find_class_folders,
)
from distsent.data.layouts.folder import Folder
from distsent.data.layouts.parallel_files import find_parallel_files
from distsent.data.layouts.saved_dataset import find_saved_files, find_saved_splits
from distsent.data.layouts.split_names import (
    check_shards,
    choose_splits,
    set_of,
    split_called,
    split_in,
    stem,
)
from distsent.data.rows import SPLITS
from distsent.errors import UserError
from distsent.formats.column_choice import label_candidates
from distsent.formats.compression import data_suffix
from distsent.formats.json.reader import parts_of
from distsent.formats.records import first_few
from distsent.job.keys import to_toml_value

Splits = dict[str, list[RowSource]]
MOST = 8  # files that a command names
DEEPEST = 8  # folders inside each other that hold nothing else


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


def find_by_name(folder: Folder, named: Collection[str] = (), depth: int = 0) -> Splits:
    """The splits in a folder, but those that the job has `named`."""
    wanted = [split for split in SPLITS if split not in named]
    inside = [folder.path / name for name in ("aclImdb", "data")]
    places = [folder, *(folder.inner(path, path) for path in inside if path.is_dir())]
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
        return find_by_name(folder.inner(only, only), named, depth + 1)
    if sets := [path for path in folder.folders if _tables(folder.inner(path), wanted)]:
        fix = f"data.source = {to_toml_value(str(sets[0]))} names one"
        raise folder.error(f"several datasets, {first_few([p.name for p in sets])}; {fix}")
    lack = "no file is called like a split, and no table or folder of classes is alone"
    raise folder.error(f"{lack}; it contains {folder.shown()}; {_named(folder)}")


def _named(folder: Folder) -> str:
    """The keys that name files: by the words in their names, if these are of splits."""
    found = {split: [p for p in folder.files if split_in(stem(p)) == split] for split in SPLITS}
    keys = [f"data.{split} = {folder.key(*some)}" for split, some in found.items() if some]
    if "data.train" in " ".join(keys):
        return f"{', '.join(keys)} name{'s' * (len(keys) == 1)} files"
    return f"data.train = {folder.key(*folder.files)} names the training rows"


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
    found = find_parallel_files(folder.texts, folder.root)
    pairs = {split: found[split] for split in wanted if split in found}
    for split, (texts, labels) in pairs.items():
        if labels is None:
            folder.notes.append(f"{split}: {texts.name} has no file of labels; not used")
    return {s: [folder.parallel(x, y)] for s, (x, y) in pairs.items() if y is not None}


def _class_files(folder: Folder, wanted: Sequence[str]) -> Splits:
    classed = find_class_files(folder.texts)
    found = {split: classed[split] for split in wanted if split in classed}
    if found:  # files that the job names itself are not in doubt
        check_others(folder.texts, classed)
    return {
        split: [folder.table(path, label) for label, path in sorted(files.items())]
        for split, files in found.items()
    }


def _tables(folder: Folder, wanted: Sequence[str]) -> Splits:
    """Files that are called like splits; if one is not there, a file with the word in its name."""
    texts = [path for path in folder.texts if data_suffix(path) == ".txt"]
    sets: dict[tuple[str, str], list[Path]] = {}
    for path in (*folder.tables, *texts):
        sets.setdefault(set_of(path), []).append(path)
    called = {key: split_called(key[0]) for key in sets}
    found: dict[str, list[Path]] = {}
    errors, ways = list[str](), list[Mapping[str, Any]]()
    for split in wanted:
        some = [paths for key, paths in sets.items() if called[key] == split]
        if not some and ("train" in called.values() or not any(called.values())):
            words_say = [key for key in sets if not called[key] and split_in(key[0]) == split]
            tables = [key for key in words_say if key[1] != ".txt"]
            some = [sets[key] for key in tables or words_say]
        if len(some) > 1:
            names = " and ".join(paths[0].name for paths in some)
            fix = f"keep one, or choose: data.{split} = {folder.key(some[0][0])}"
            errors.append(f"the {split} split exists twice, as {names}; {fix}")
            ways = [{f"data.{split}": folder.inside(paths[0])} for paths in some]
        found |= {split: some[0]} if some else {}
    if "train" in wanted and "train" not in found and not any(called.values()):
        return {}
    if errors:
        raise folder.error(*errors, ways=ways if len(errors) == 1 else ())
    for paths in found.values():
        check_shards(paths, f"data.source = {str(folder.path)!r}", "get them, too")
    folder.unread.extend(folder.tables if found else ())
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
                fix = f"data.{split} = {folder.key(paths[0])} names one"
                ways = [{f"data.{split}": folder.inside(path)} for path in paths]
                raise folder.error(f"{names} may both be the {split} split; {fix}", ways=ways)
            if some := find_rows(folder.inner(paths[0]), split):
                rows[split] = some
        if rows:
            return rows
    return {}


def find_rows(folder: Folder, split: str | None = None) -> list[RowSource]:
    """The rows in a folder that holds one split; none if it has no files of rows.

    `split`: the one that the folder is by its name, so that a text in it is not about the dataset.
    """
    path = folder.path
    if (path / "state.json").is_file():
        return [folder.table(file) for file in find_saved_files(path)]
    if not folder.tables and (classes := find_class_folders(path)):
        return [ClassFolders(classes, folder.name(path), folder.reading)]
    if len(pairs := find_parallel_files(folder.texts, folder.root)) == 1:
        ((texts, labels),) = pairs.values()
        return [folder.parallel(texts, labels)] if labels else []
    if len(classed := find_class_files(folder.texts)) == 1:
        check_others(folder.texts, classed)
        (files,) = classed.values()
        return [folder.table(file, label) for label, file in sorted(files.items())]
    inside = [file for file in folder.texts if split and data_suffix(file) == ".txt"]
    tables = folder.tables or inside
    if len({set_of(file) for file in tables}) > 1:
        raise _several(folder, tables, split)
    check_shards(tables, f"data.source = {str(path)!r}", "get them, too")
    return [folder.table(file) for file in tables]


def _several(folder: Folder, tables: Sequence[Path], split: str | None) -> UserError:
    """The error of several tables that may be parts of one set, or a class each."""
    key, names = f"data.{split or 'train'}", [folder.name(path) for path in tables]
    every: Mapping[str, Any] = {key: [folder.inside(path) for path in tables[:MOST]]}
    classes = {key: {stem(path): folder.inside(path) for path in tables[:MOST]}}
    columns = [folder.table(path).sample() for path in tables]
    alike = len({tuple(column.name for column in some) for some in columns}) == 1
    labeled = any(one.score > 1 for one in label_candidates(columns[0]))
    ways = [every, classes] if labeled else [classes, every]
    if not alike or len(tables) > MOST:
        ways = [{key: folder.inside(path)} for path in tables[:3]]
    shown = to_toml_value(folder.inside(folder.path / f"*{tables[0].suffix}"))
    problem = (
        f"which of {first_few(names)} are {split or 'training'} rows? {key} = "
        f"{folder.key(*tables)} names them, {key} = {shown} names all; "
        f"{key} = {to_toml_value(classes[key])} if each file is a class"
    )
    return folder.error(problem, ways=ways)
