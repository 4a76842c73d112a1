"""Which split a name stands for, and which shards belong together: read from names alone."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distsent.data.rows import SPLITS
from distsent.errors import UserError
from distsent.formats.compression import SUFFIXES as COMPRESSIONS
from distsent.formats.compression import data_suffix
from distsent.formats.records import first_few
from distsent.job.keys import to_toml_value

# As datasets reads them; "eval" is a test split there, too
KEYWORDS = {
    **{"train": "train", "training": "train"},
    **{"validation": "validation", "valid": "validation", "dev": "validation", "val": "validation"},
    **{"test": "test", "testing": "test", "eval": "test", "evaluation": "test"},
}
UNLABELED = {"unlabeled", "unlabelled", "unsup", "unsupervised"}  # rows that no job can use
# Files about a dataset, not of it
ABOUT = {"readme", "license", "licence", "requirements", "notes", "changelog"}
_SHARD = re.compile(r"(?P<rest>.*?)-(?P<index>\d{3,})-of-(?P<of>\d{3,})(-[0-9a-f]{8,})?")
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


class Shard(NamedTuple):
    """The place of a file in a set: train-00002-of-00005.parquet is number 2 of 5."""

    rest: str  # the name without it
    number: int
    of: int


def stem(path: Path) -> str:
    """The name without the suffixes of compression and format: "train" of "train.csv.gz".

    The name of a split is none: "stsa.binary.train".
    """
    name = path.stem if path.suffix.lower() in COMPRESSIONS else path.name
    return Path(name).stem if suffix_of(path) else name


def suffix_of(path: Path) -> str:
    """The suffix that may name the format; empty if there is none, or the name of a split."""
    suffix = data_suffix(path)
    return "" if split_called(suffix[1:]) else suffix


def inside(path: Path, root: Path) -> str:
    """The path as a value of data.train, which is relative to `root` if it is in there."""
    return str(path.relative_to(root)) if root in path.parents else str(path)


def shard_of(path: Path) -> Shard | None:
    """Its place in a set of shards, if the name has one."""
    found = _SHARD.fullmatch(stem(path))
    return Shard(found["rest"], int(found["index"]), int(found["of"])) if found else None


def set_of(path: Path) -> tuple[str, str, str]:
    """What the files of a set of shards have in common: (name without the number, suffix, kind).

    By their kinds train.csv, train.csv.gz and train-00000-of-00001.csv are copies, not shards.
    """
    shard, last = shard_of(path), path.suffix.lower()
    kind = f"{shard.of if shard else ''}{last if last in COMPRESSIONS else ''}"
    return shard.rest if shard else stem(path), suffix_of(path), kind


def sets_of(paths: Iterable[Path]) -> dict[tuple[str, str, str], list[Path]]:
    """The files of each set, by what they have in common."""
    sets: dict[tuple[str, str, str], list[Path]] = {}
    for path in paths:
        sets.setdefault(set_of(path), []).append(path)
    return sets


def pattern_of(paths: Sequence[Path]) -> Path:
    """What names a set: its only file, or a pattern for its shards."""
    if len(paths) == 1:
        return paths[0]
    some = re.sub(r"-\d{3,}-of-(\d{3,})(-[0-9a-f]{8,})?", _any_shard, paths[0].name, count=1)
    return paths[0].with_name(some)


def pattern_of_suffix(path: Path) -> str:
    """What names the files with the suffix of this one, compressed or not: "*.csv"."""
    more = "*" if path.suffix.lower() in COMPRESSIONS else ""
    return f"*{Path(path.stem).suffix if more else path.suffix}{more}"


def _any_shard(found: re.Match[str]) -> str:
    return f"-*-of-{found[1]}{'-*' if found[2] else ''}"


def words(name: str) -> list[str]:
    """The words of a name, in lower case: "labeledTrainData" has three."""
    return [word.lower() for word in _WORD.findall(name)]


def split_called(name: str) -> str | None:
    """The split that this is a usual name of, as a whole."""
    return KEYWORDS.get(name.lower())


def split_in(name: str) -> str | None:
    """The split that a word of the name stands for; None if there is none, or several."""
    said = words(name)
    found = {KEYWORDS[word] for word in said if word in KEYWORDS}
    return found.pop() if len(found) == 1 and UNLABELED.isdisjoint(said) else None


def choose_splits(
    named: Mapping[str, Any], there: Sequence[str], where: str
) -> dict[str, list[str]]:
    """For each split the names, of those that are `there`, which a job has `named` or are usual.

    Raises UserError, which begins with `where`, if there are none.
    """
    chosen: dict[str, list[str]] = {}
    for split in SPLITS:
        wanted = named.get(split)
        usual = [split] if split in there else [n for n in there if split_called(n) == split]
        names = [wanted] if isinstance(wanted, str) else list(wanted or usual)
        if isinstance(wanted, Mapping) or not set(names) <= {*there} or len(usual) > 1 < len(names):
            value = f"data.{split} = {to_toml_value(wanted)}: " if wanted else f"{where}: "
            raise UserError(f"{value}the splits are {', '.join(there)}; data.{split} names one")
        chosen |= {split: names} if names else {}
    used = [name for names in chosen.values() for name in names]
    if twice := sorted({name for name in used if used.count(name) > 1}):
        raise UserError(
            f"{where}: {twice[0]!r} is in two of data.train, data.validation, data.test"
        )
    if not chosen:
        fix = f"data.train = {to_toml_value(there[0])} names the training rows"
        raise UserError(f"{where}: its splits are {', '.join(there)}; {fix}")
    return chosen


def check_shards(paths: Iterable[Path], where: str, fix: str) -> None:
    """Raises UserError, which `where` begins and `fix` ends, unless all sets are complete."""
    sets: dict[tuple[Path, str, str, int], list[Path]] = {}
    for path in paths:
        if shard := shard_of(path):
            key = (path.parent, shard.rest, path.name.partition(".")[2], shard.of)
            sets.setdefault(key, []).append(path)
    for (_, rest, suffix, of), some in sets.items():
        numbers = [shard.number for path in some if (shard := shard_of(path))]
        missing = [f"{rest}-{i:05d}-of-{of:05d}.{suffix}" for i in range(of) if i not in numbers]
        twice = [path.name for path, n in zip(some, numbers, strict=True) if numbers.count(n) > 1]
        if missing:
            lack = f"{len(missing)} of {of} shards are missing: {first_few(missing)}"
            raise UserError(f"{where}: {lack}; {fix}")
        if twice:
            raise UserError(f"{where}: shards exist twice: {first_few(twice)}; keep one of each")
