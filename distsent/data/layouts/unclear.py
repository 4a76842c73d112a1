"""The errors of folders that may be read in several ways, with the keys that decide."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from distsent.data.files import TableFile
from distsent.data.layouts.folder import Folder
from distsent.data.layouts.refused import command
from distsent.data.layouts.split_names import (
    ABOUT,
    pattern_of,
    pattern_of_suffix,
    sets_of,
    split_called,
    split_in,
    stem,
    words,
)
from distsent.data.rows import SPLITS
from distsent.errors import UserError
from distsent.formats.column_choice import (
    Candidate,
    Column,
    is_labeled,
    label_candidates,
    label_score,
    text_candidates,
)
from distsent.formats.compression import data_suffix
from distsent.formats.open import TABLES
from distsent.formats.records import first_few
from distsent.formats.refused import SUFFIXES
from distsent.job.keys import to_toml_value

MOST = 8  # files that a command names
SHOWN = 4  # commands
_CSV = "dtype=str,keep_default_na=False"
_READ = {  # functions of pandas that read a file of texts
    ".csv": f"read_csv({{}},{_CSV})",
    ".tsv": f"read_csv({{}},sep='\\t',{_CSV})",
    ".jsonl": "read_json({},lines=True,dtype=False,convert_dates=False)",
}


def several_datasets(folder: Folder, places: Sequence[Path]) -> UserError:
    """The error of folders that each hold a dataset."""
    fix = f"data.source = {to_toml_value(str(places[0]))} names one"
    ways = [{"data.source": str(place)} for place in places[:SHOWN]]
    return folder.error(
        f"several datasets, {first_few([place.name for place in places])}; {fix}", ways=ways
    )


def twice(folder: Folder, found: Mapping[str, Sequence[Path]]) -> UserError:
    """The error of splits that two or more files, or sets of shards, are called like.

    A way takes the first of each split, the next way the second: dev_matched and test_matched.
    """
    errors = []
    for split, paths in found.items():
        names = " and ".join(path.name for path in paths)
        fix = f"keep one, or choose: data.{split} = {folder.key(paths[0])}"
        errors.append(f"the {split} split exists twice, as {names}; {fix}")
    ways = [
        {f"data.{s}": folder.inside(paths[i]) for s, paths in found.items() if i < len(paths)}
        for i in range(min(SHOWN, max(map(len, found.values()))))
    ]
    return folder.error(*errors, ways=ways)


def none_called(folder: Folder) -> UserError:
    """The error of a folder in which no file is called like a split."""
    if inside := [path for path in folder.folders if split_called(path.name)]:
        return _no_rows(folder, inside)
    lack = "no file is called like a split, and no table or folder of classes is alone"
    problem = f"{lack}; it contains {folder.shown()}"
    files = [path for path in folder.maybe_rows if path.stat().st_size]
    for path in folder.texts if not files else ():
        if data_suffix(path) in SUFFIXES:
            folder.table(path).columns()  # raises the error of a format that is not read: *.sgm
    said = {split: [p for p in files if split_in(p.name) == split] for split in SPLITS}
    fix = {f"data.{split}": folder.inside(some[0]) for split, some in said.items() if some}
    others = [path for path in files if not split_in(path.name)]
    if "data.train" in fix:
        ways: list[Mapping[str, Any]] = [fix]
        keys = [f"{key} = {to_toml_value(value)}" for key, value in fix.items()]
        if "data.test" not in fix and len(others) == 1:
            ways.append({"data.test": folder.inside(others[0])})
            keys.append(f"data.test = {folder.key(*others)}")
        return folder.error(f"{problem}; {' and '.join(keys)} name files", ways=ways)
    if 1 < len(files) <= MOST:
        return several_tables(folder, files, None)
    key = f"data.train = {folder.key(*files, *folder.files)} names the training rows"
    ways = [{"data.train": folder.inside(path)} for path in files[:1]]
    return folder.error(f"{problem}; {key}", ways=ways)


def check_others(folder: Folder, found: Mapping[Any, Mapping[str, Path]]) -> None:
    """Raises UserError if files beside those of classes may be further classes: neu.txt."""
    classed = [path for paths in found.values() for path in paths.values()]
    suffixes = {path.suffix.lower() for path in classed}
    others = [p for p in folder.texts if p not in classed and p.suffix.lower() in suffixes]
    others = [path for path in others if ABOUT.isdisjoint(words(path.name))]
    if not others:
        return
    table = {path.stem: folder.inside(path) for path in sorted([*classed, *others])}
    fix = f"data.train = {to_toml_value(table)} names the files of classes"
    if len(found) > 1:  # one table would put the files of all splits into train
        fix, table = "data.train, data.validation and data.test name the files of each class", {}
    beside = f"{others[0].name} beside {classed[0].name}"
    raise UserError(
        f"{others[0].parent}: {beside}: is it another class? {fix}, or move it away",
        fix={"data.train": table} if 0 < len(table) <= MOST else None,
    )


def tables_beside(
    folder: Folder,
    tables: Mapping[str, Sequence[Path]],
    files: Mapping[str, Mapping[str, Path]],
) -> UserError:
    """The error of tables and other files that may both be the rows: reviews.csv beside pos.txt.

    `files`: of each split, the file of each class, or of texts and labels.
    """
    named = {split: _patterns(folder, paths) for split, paths in tables.items() if paths}
    ways: list[dict[str, Any]] = [
        {f"data.{s}": names if len(names) > 1 else names[0] for s, names in named.items()},
        {
            f"data.{s}": {name: folder.inside(path) for name, path in some.items()}
            for s, some in files.items()
        },
    ]
    one, other = (
        " and ".join(f"{key} = {to_toml_value(value)}" for key, value in way.items())
        for way in ways
    )
    table = next(path for paths in tables.values() for path in paths)
    file = next(path for some in files.values() for path in some.values())
    problem = f"{folder.name(table)} beside {folder.name(file)}: which has the rows?"
    return folder.error(f"{problem} {one} reads tables, {other} the other files", ways=ways)


def _patterns(folder: Folder, tables: Sequence[Path]) -> list[str]:
    """What names the tables: shards are one pattern, and so are more than a command can name."""
    sets = sets_of(tables)
    if len(sets) > MOST:
        return [folder.inside(tables[0].with_name(pattern_of_suffix(tables[0])))]
    return [folder.inside(pattern_of(paths)) for paths in sets.values()]


def _no_rows(folder: Folder, places: Sequence[Path]) -> UserError:
    """The error of folders that are called like splits, in which no rows were found."""
    inner = folder.inner(min(places, key=lambda place: split_called(place.name) != "train"))
    key, file = f"data.{split_called(inner.path.name)}", f"{inner.inside(inner.path)}/FILE"
    pair = to_toml_value({"text": file, "label": file})
    ways = f"{key} = {to_toml_value(file)} names a table, {key} = {pair} texts and labels"
    return inner.error(
        f"no table or folder of classes is alone; it contains {inner.shown()}; {ways}"
    )


def several_tables(folder: Folder, tables: Sequence[Path], split: str | None) -> UserError:
    """The error of several files of rows that may be parts of one set, or a class each."""
    key, names = f"data.{split or 'train'}", [folder.name(path) for path in tables]
    every: Mapping[str, Any] = {key: [folder.inside(path) for path in tables[:MOST]]}
    classes = {key: dict(zip(_short_names(tables), every[key], strict=False))}
    found = [_columns(folder, path) for path in tables[:MOST]]
    ways = [every, classes] if is_labeled(found) else [classes, every]
    if not found[0]:  # lines of texts, which have no label of their own
        ways = [classes]
    elif data_suffix(tables[0]) not in TABLES:  # with a class each, its lines would be texts
        ways = [every]
    if len(tables) == 2 and (join := _join(folder, tables, found)):
        return folder.error(join)
    different = len({tuple(column.name for column in some) for some in found}) > 1
    if different or len(tables) > MOST or _repeat_each_other(found):
        ways = [{key: folder.inside(path)} for path in tables[:3]]
    shown = to_toml_value(folder.inside(folder.path / f"*{tables[0].suffix}"))
    problem = (
        f"which of {first_few(names)} are {split or 'training'} rows? {key} = "
        f"{folder.key(*tables)} names them, {key} = {shown} names all; "
        f"{key} = {to_toml_value(classes[key])} if each file is a class"
    )
    return folder.error(problem, ways=ways)


def _join(folder: Folder, tables: Sequence[Path], found: Sequence[Sequence[Column]]) -> str:
    """What two tables are of which one has the texts and one the labels of the same rows."""
    one, two = ({column.name: column for column in some} for some in found)
    keys = [name for name in one if name in two]
    values = [{*some[name].sample} for name in keys[:1] for some in (one, two)]
    unique = all(len(x) == some[keys[0]].rows for x, some in zip(values, (one, two), strict=False))
    texts, labels = ([bool(find(some)) for some in found] for find in (text_candidates, _labels))
    parted = sorted(zip(texts, labels, strict=True)) == [(False, True), (True, False)]
    if len(keys) != 1 or not (unique and parted and values[0] & values[1]):
        return ""
    if any(path.suffix not in _READ for path in tables):
        return ""
    reads = [f"pandas.{_READ[path.suffix].format(repr(path.name))}" for path in tables]
    write = "to_json('joined.jsonl',orient='records',lines=True,force_ascii=False)"
    code = f"import pandas;{reads[0]}.merge({reads[1]},on={keys[0]!r}).{write}"
    names = " and ".join(folder.name(path) for path in tables)
    what = f"{names} hold the texts and the labels of the same rows, by {keys[0]!r}"
    return f"{what}: not read; {command(folder, code)} writes joined.jsonl, to be data.source"


def _labels(columns: Sequence[Column]) -> list[Candidate]:
    return [one for one in label_candidates(columns) if label_score(one.name) > 0]


def _repeat_each_other(files: Sequence[Sequence[Column]]) -> bool:
    """Whether files have texts of the first one: versions of a set, such as Sentences_66Agree."""
    texts = [{*max(some, key=lambda column: column.words).sample} for some in files if some]
    first = texts[0] if texts else set()
    return any(2 * len(first & some) > min(len(first), len(some)) for some in texts[1:])


def _columns(folder: Folder, path: Path) -> list[Column]:
    """The columns with some values; none of lines of texts."""
    reading = folder.reading
    while True:
        try:
            return TableFile(path, folder.name(path), reading).sample()
        except UserError as error:  # as it would be read with the keys that it shows
            keys = {key.removeprefix("data."): value for key, value in error.fix.items()}
            if not keys or keys.items() <= vars(reading.options).items():
                return []
            reading = replace(reading, options=replace(reading.options, **keys))


def _short_names(paths: Sequence[Path]) -> list[str]:
    """The names without suffixes, and without the last words that all of them have."""
    parts = [re.split(r"(?=[^0-9A-Za-z])", stem(path)) for path in paths]
    while len({some[-1] for some in parts}) == 1 < min(map(len, parts)):
        parts = [some[:-1] for some in parts]
    return ["".join(some) for some in parts]
