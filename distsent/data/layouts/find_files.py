"""The files of a dataset: for each split those that the job names, or those found by name."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from distsent.data.files import Files, Reading, RowSource, TableFile
from distsent.data.layouts.by_name import Splits, find_by_name, find_rows, parts_of_file, split_keys
from distsent.data.layouts.class_files import ClassFolders
from distsent.data.layouts.folder import Folder
from distsent.data.layouts.readme import check_readme, with_readme
from distsent.data.layouts.split_column import divide
from distsent.data.layouts.split_names import check_shards, pattern_of_suffix
from distsent.data.rows import SPLITS
from distsent.errors import UserError
from distsent.formats.compression import data_suffix
from distsent.formats.open import TABLES
from distsent.formats.records import first_few, shorten
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection
from distsent.storage import entries, exists, is_file, is_folder, matches


def find_files(
    data: DataSection, path: Path | None, reading: Reading, only: str | None = None
) -> Files:
    """The dataset at `path`, a file or a folder, or that which data.train names alone.

    `only`: the split that is needed. Where the job names its files, no others are sought.
    """
    if path:
        _check_path(path, f"data.source = {data.source!r}")
    named = {split: getattr(data, split) for split in SPLITS if getattr(data, split) is not None}
    folder = Folder.of(path if path and is_folder(path) else Path(), reading)
    if path and is_file(path):
        if parts := split_keys(path, reading):
            return Files(parts_of_file(folder, path, parts, named), folder.notes)
        if "train" in named:
            why = f"data.source = {str(path)!r} is the training file"
            raise UserError(f"data.train: {why}; leave one of them out")
        check_shards([path], f"data.source = {str(path)!r}", "name their folder")
    chosen = {split: named_rows(split, value, folder) for split, value in named.items()}
    found: Splits = {}
    if path and is_file(path):
        found = {"train": [TableFile(path, path.name, reading)]}
    elif path and only not in chosen:
        try:
            found = find_by_name(folder, chosen)
        except UserError as error:
            raise (error if chosen else with_readme(error, path)) from None
        if not (chosen or data.split_column):
            check_readme(found, path, only, folder.notes)
    found |= chosen
    used = check_overlap(found)
    if data.split_column:
        found = divide(found, data.split_column, folder.notes)
    read = {place for file in used for place in (file, *file.parents)}
    unread = [
        folder.name(file) for file in dict.fromkeys(folder.unread) if file.resolve() not in read
    ]
    return Files(found, [*folder.notes, *([f"not read: {first_few(unread)}"] if unread else [])])


def _check_path(path: Path, where: str) -> None:
    """Raises UserError, which `where` begins, unless there is a file or folder that can be read."""
    if re.match(r"[a-z0-9]+:/", str(path), re.IGNORECASE) and not exists(path):
        raise UserError(f"{where}: an address: not read; download it, and name the file or folder")
    if not exists(path):
        raise UserError(f"{where}: no such file or folder")
    if not (is_file(path) or is_folder(path)):
        what = "neither a file nor a folder (a pipe or a device)"
        raise UserError(f"{where}: {what}: rows are read more than once; write them to a file")


def named_rows(split: str, value: str | Sequence[str] | Mapping, folder: Folder) -> list[RowSource]:
    """The rows that data.train, data.validation or data.test names, relative to a folder."""
    if isinstance(value, Mapping):
        paths = {key: _matching(split, pattern, folder) for key, pattern in value.items()}
        if set(paths) == {"text", "label"}:
            files = (_one_file(split, key, paths[key], folder) for key in ("text", "label"))
            return [folder.parallel(*files)]
        classes = {k: some[0] for k, some in paths.items() if is_folder(some[0])}
        _check_classes(split, value, classes, folder)
        rows = [folder.table(p, k) for k, some in paths.items() for p in some if is_file(p)]
        return [*rows, *([ClassFolders(classes, ".", folder.reading)] if classes else [])]
    out: list[RowSource] = []
    patterns = [value] if isinstance(value, str) else value
    for path in dict.fromkeys(p for pattern in patterns for p in _matching(split, pattern, folder)):
        if is_file(path):
            out.append(folder.table(path))
        elif rows := find_rows(folder.inner(path), split):
            out += rows
        else:
            raise UserError(f"data.{split} = {shorten(value)}: {path} is a folder without rows")
    return out


def _one_file(split: str, key: str, found: Sequence[Path], folder: Folder) -> Path:
    """The file of texts or of labels. Raises UserError for several, or a folder."""
    if len(found) == 1 and is_file(found[0]):
        return found[0]
    names = first_few([folder.name(path) for path in found])
    what = f"{len(found)} files, {names}" if len(found) > 1 else f"{names}, a folder"
    raise UserError(f"data.{split}: {key} is {what}; text and label name one file each")


def _check_classes(split: str, value: Mapping, classes: Mapping[str, Path], folder: Folder) -> None:
    """Raises UserError if a folder of a class holds tables: each of them would be a text."""
    patterns, first = dict[str, str](), ""
    for label, path in classes.items():
        inside = [file for file in entries(path) if file.name[0] not in "._"]
        if not inside:
            raise UserError(f"data.{split}: {folder.name(path)}, of class {label!r}, is empty")
        if tables := [file for file in inside if data_suffix(file) in TABLES]:
            some = pattern_of_suffix(tables[0])
            patterns[label] = folder.inside(path / some)
            first = first or f"{folder.name(tables[0])} is a table"
    if patterns:
        named = {**value, **patterns}
        why = f"{first}: in a folder of a class, each file would be one text"
        fix = f"data.{split} = {to_toml_value(named)} reads the rows of tables"
        raise UserError(f"{why}; {fix}", fix={f"data.{split}": named})


def _matching(split: str, pattern: str, folder: Folder) -> list[Path]:
    """The files of a pattern, sorted, or the file or folder of this name."""
    path = folder.path / Path(pattern).expanduser()
    key = f"data.{split} = {to_toml_value(pattern)}"
    if exists(path) or "://" in pattern:
        _check_path(path if exists(path) else Path(pattern), key)
        return [path]
    found = [p for p in matches(path) if is_file(p)]
    if not found:
        raise UserError(f"{key}: no such file in {folder.path}; there are {folder.shown()}")
    check_shards(found, key, "get them, or name the files")
    return found


def check_overlap(splits: Splits) -> Collection[Path]:
    """All files. Raises UserError if one is in two splits: its scores would be too high.

    And if one is twice in a split, or in two of its classes.
    """
    seen: dict[Path, str] = {}
    for split, rows in splits.items():
        for name, path in ((one.name, path.resolve()) for one in rows for path in one.paths):
            if path in seen and seen[path] == split:
                fix = f"data.{split} names each file once"
                raise UserError(f"{name} is twice in the {split} split, or in two classes; {fix}")
            if (other := seen.setdefault(path, split)) != split:
                fix = f"data.{other} and data.{split} name the files of each"
                raise UserError(
                    f"{path.name} is both in the {other} and in the {split} split; {fix}"
                )
    return seen
