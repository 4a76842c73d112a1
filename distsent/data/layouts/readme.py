"""What the README.md of a dataset's folder says of its files, as on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from distsent.data.files import RowSource
from distsent.data.layouts.split_names import split_called
from distsent.errors import UserError
from distsent.formats.records import first_few
from distsent.job.keys import to_toml_value
from distsent.storage import is_file, matches

MOST = 4  # datasets of a folder that an error shows


def with_readme(error: UserError, folder: Path) -> UserError:
    """The error of a folder whose files have unclear names, with what its README.md calls them."""
    lines, fix = [*error.lines], error.fix
    for place, keys in enumerate(islice(_splits(folder / "README.md"), MOST)):
        said = " and ".join(f"{key} = {to_toml_value(value)}" for key, value in keys.items())
        lines.append(f"{folder / 'README.md'}: {said} are {'other' if place else 'its'} files")
        fix = fix if place else dict(keys)
    return error if fix == error.fix else UserError(*lines, fix=fix)


def check_readme(
    found: Mapping[str, Sequence[RowSource]], folder: Path, only: str | None, notes: list[str]
) -> None:
    """Raises UserError where README.md says that other files are the splits than those `found`.

    Where it names several datasets, a note names those that are not read. `only`: the split that
    is needed.
    """
    paths = {split: [p for one in some for p in one.paths] for split, some in found.items()}
    if not all(some and all(map(is_file, some)) for some in paths.values()):
        return
    read = {split: {path.resolve() for path in some} for split, some in paths.items()}
    readme, others = folder / "README.md", list[Mapping[str, Any]]()
    datasets = [*_splits(readme)]
    for keys in datasets:
        there = {key.removeprefix("data."): _files(folder, value) for key, value in keys.items()}
        checked = {split: files for split, files in there.items() if only in (None, split)}
        if any(read.get(split) != files for split, files in checked.items()) and all(
            there.values()
        ):
            others.append(keys)
    if not others:
        return
    said = [" and ".join(f"{k} = {to_toml_value(v)}" for k, v in keys.items()) for keys in others]
    names = first_few([path.name for some in paths.values() for path in some])
    if len(others) < len(datasets):
        notes.append(f"not read: another dataset of {readme}: {'; or '.join(said[:MOST])}")
        return
    used = " and ".join(paths)
    line = f"{readme} says {'; or '.join(said[:MOST])}, but by its name {names} is {used}"
    raise UserError(f"{line}; set these keys", fix=dict(others[0]), others=others[1:])


def _files(folder: Path, value: str | Sequence[str]) -> set[Path]:
    """The files that a pattern, or a list of them, names."""
    patterns = [value] if isinstance(value, str) else value
    found = (path for pattern in patterns for path in matches(folder / pattern))
    return {path.resolve() for path in found if is_file(path)}


def _is_inside(value: Any) -> bool:
    """Whether this is a pattern, or a list of them, of files in the folder itself."""
    patterns = value if isinstance(value, list) else [value]
    return all(
        isinstance(one, str) and one[:1] not in ("/", "~") and ".." not in Path(one).parts
        for one in patterns
    )


def _splits(readme: Path) -> Iterator[Mapping[str, Any]]:
    """The keys that name the files of each configuration with a train split."""
    try:
        text = readme.read_text(encoding="utf-8")
        about = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
        configs = about.get("configs") or []
        for config in configs:
            files = config["data_files"]
            some = files if isinstance(files, list) else [files]
            found = dict[str, Any]()
            for one in some:
                split, path = (
                    (one["split"], one["path"]) if isinstance(one, dict) else ("train", one)
                )
                if (name := split_called(str(split))) and _is_inside(path):
                    found[f"data.{name}"] = path
            if "data.train" in found:
                yield found
    except (OSError, UnicodeError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return
