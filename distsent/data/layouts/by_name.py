"""Which files are which split, as far as names and folders show it.

Nothing is guessed. Where two readings are possible, the error shows the key that decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distsent.data.files import Reading, RowSource, TableFile
from distsent.data.layouts.class_files import ClassFolders, find_class_files, find_class_folders
from distsent.data.layouts.folder import Folder
from distsent.data.layouts.parallel_files import find_parallel_files
from distsent.data.layouts.refused import refuse
from distsent.data.layouts.saved_dataset import find_saved_files, find_saved_splits, is_saved
from distsent.data.layouts.split_names import (
    check_shards,
    choose_splits,
    pattern_of,
    sets_of,
    split_called,
    split_in,
)
from distsent.data.layouts.unclear import (
    check_others,
    none_called,
    several_datasets,
    several_tables,
    tables_beside,
    twice,
)
from distsent.data.rows import SPLITS
from distsent.errors import UserError
from distsent.formats.compression import data_suffix
from distsent.formats.json.reader import parts_of
from distsent.formats.records import first_few
from distsent.storage import is_file, is_folder

Splits = dict[str, list[RowSource]]
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


def find_by_name(folder: Folder, named: Splits, depth: int = 0) -> Splits:
    """The splits in a folder, but those that the job has `named`."""
    wanted = [split for split in SPLITS if split not in named]
    inside = [folder.path / name for name in ("aclImdb", "data")]
    places = [folder, *(folder.inner(path, path) for path in inside if is_folder(path))]
    for place in places:
        if found := find_splits(place, wanted):
            return found
    if "train" in named:
        return {}
    taken = [path for rows in named.values() for one in rows for path in one.paths]
    for place in (place.without(taken) for place in places):
        if rows := find_rows(place):
            lone = rows[0].paths[0]
            if len(rows) == 1 and is_file(lone) and (parts := split_keys(lone, folder.reading)):
                return parts_of_file(place, lone, parts, {})
            return {"train": rows}
    folders = [path for path in folder.folders if not taken or _holds(path, taken)]
    if len(folders) == 1 and depth < DEEPEST:
        # Names that the job gives begin in the folder that it names
        base = None if taken else folders[0]
        return find_by_name(folder.inner(folders[0], base), named, depth + 1)
    if taken and not folder.without(taken).maybe_rows:
        return {}
    if sets := [path for path in folder.folders if _has_splits(path, folder.reading)]:
        raise several_datasets(folder, sets)
    raise none_called(folder.without(taken))


def _holds(folder: Path, files: Sequence[Path]) -> bool:
    return any(folder in path.parents for path in files)


def _has_splits(path: Path, reading: Reading) -> bool:
    try:
        return bool(find_splits(Folder.of(path, reading), SPLITS))
    except UserError:
        return True


def find_splits(folder: Folder, wanted: Sequence[str]) -> Splits:
    """Those of the `wanted` splits that a folder has under their names."""
    for find in (_saved, _parallel, _class_files, _tables):
        if found := find(folder, wanted):
            return found
    refuse(folder)
    return _folders(folder, wanted)


def _saved(folder: Folder, wanted: Sequence[str]) -> Splits:
    saved = find_saved_splits(folder.path) or {}
    read = {file.parent for files in saved.values() for file in files}
    if saved:
        others = (path for path in folder.folders if path not in read)
        folder.unread.extend(path for path in others if is_saved(path))
    return {s: [folder.table(path) for path in saved[s]] for s in wanted if s in saved}


def _parallel(folder: Folder, wanted: Sequence[str]) -> Splits:
    found = find_parallel_files(folder.texts, folder.root)
    pairs = {split: found[split] for split in wanted if split in found}
    for split, (texts, labels) in pairs.items():
        if labels is None:
            folder.notes.append(f"{split}: {texts.name} has no file of labels; not used")
    both = {s: {"text": x, "label": y} for s, (x, y) in pairs.items() if y is not None}
    _check_tables(folder, both, wanted)
    return {s: [folder.parallel(some["text"], some["label"])] for s, some in both.items()}


def _class_files(folder: Folder, wanted: Sequence[str]) -> Splits:
    classed = find_class_files(folder.texts)
    found = {split: classed[split] for split in wanted if split in classed}
    if found:  # files that the job names itself are not in doubt
        _check_tables(folder, found, wanted)
        check_others(folder, classed)
    return {
        split: [folder.table(path, label) for label, path in sorted(files.items())]
        for split, files in found.items()
    }


def _check_tables(
    folder: Folder, found: Mapping[str, Mapping[str, Path]], wanted: Sequence[str]
) -> None:
    """Raises UserError if tables are called like splits, too. `found`: other files of splits."""
    tables = folder.tables if found else []
    called = {split: [path for path in tables if split_in(path.name) == split] for split in wanted}
    if any(called.values()):
        raise tables_beside(folder, called, found)
    folder.unread.extend(tables)


def _tables(folder: Folder, wanted: Sequence[str]) -> Splits:
    """Files that are called like splits; if one is not there, a file with the word in its name."""
    texts = [path for path in folder.texts if data_suffix(path) == ".txt"]
    sets = sets_of((*folder.tables, *texts, *folder.plain))
    called = {key: split_called(key[0]) for key in sets}
    words_say = {key: split_in(key[0]) for key in sets if not called[key]}
    found: dict[str, list[list[Path]]] = {}
    for split in wanted:
        some = [key for key in sets if called[key] == split]
        if not some and ("train" in called.values() or not any(called.values())):
            some = [key for key, said in words_say.items() if said == split]
            some = [key for key in some if key[1] != ".txt"] or some
        some = [key for key in some if key[1]] or some  # a name with a suffix tells more
        found |= {split: [sets[key] for key in some]} if some else {}
    if "train" in wanted and "train" not in found and not any(called.values()):
        return {}
    if more := {split: some for split, some in found.items() if len(some) > 1}:
        raise twice(
            folder, {split: [pattern_of(paths) for paths in some] for split, some in more.items()}
        )
    chosen = {split: some[0] for split, some in found.items()}
    for paths in chosen.values():
        check_shards(paths, f"data.source = {str(folder.path)!r}", "get them, too")
    folder.unread.extend(folder.tables if found else ())
    return {split: [folder.table(path) for path in paths] for split, paths in chosen.items()}


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
    if is_saved(path):
        return [folder.table(file) for file in find_saved_files(path)]
    if not folder.tables and (classes := find_class_folders(path)):
        return [ClassFolders(classes, folder.name(path), folder.reading)]
    if len(pairs := find_parallel_files(folder.texts, folder.root)) == 1:
        ((texts, labels),) = pairs.values()
        if labels is None:
            return []
        _check_alone(folder, split, {"text": texts, "label": labels})
        return [folder.parallel(texts, labels)]
    if len(classed := find_class_files(folder.texts)) == 1:
        (files,) = classed.values()
        _check_alone(folder, split, files)
        check_others(folder, classed)
        return [folder.table(file, label) for label, file in sorted(files.items())]
    inside = [file for file in folder.texts if data_suffix(file) == ".txt"] + folder.plain
    tables = folder.tables or (inside if split else [])
    if len(sets_of(tables)) > 1:
        raise several_tables(folder, tables, split)
    check_shards(tables, f"data.source = {str(path)!r}", "get them, too")
    return [folder.table(file) for file in tables]


def _check_alone(folder: Folder, split: str | None, files: Mapping[str, Path]) -> None:
    """Raises UserError if there are tables beside the files of a split."""
    if tables := folder.tables:
        raise tables_beside(folder, {split or "train": tables}, {split or "train": files})
