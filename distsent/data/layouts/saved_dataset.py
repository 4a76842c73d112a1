"""Folders that datasets' save_to_disk has written: the Arrow files of each split, in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distsent.data.layouts.split_names import split_called
from distsent.errors import UserError
from distsent.storage import is_file

FILES = "_data_files"  # the key of a state.json that datasets has written


def find_saved_splits(folder: Path) -> dict[str, list[Path]] | None:
    """The files of each split, train alone for a Dataset; None if the folder is none of them."""
    if is_saved(folder):
        return {"train": find_saved_files(folder)}
    names = _value(folder / "dataset_dict.json", "splits")
    if not names:
        return None
    splits: dict[str, list[Path]] = {}
    for name in names:
        if (split := split_called(name)) and split not in splits:
            splits[split] = find_saved_files(folder / name)
    if not splits:
        raise UserError(f"{folder}: its splits are {', '.join(names)}; data.train names one")
    return splits


def is_saved(folder: Path) -> bool:
    """Whether a folder is a saved Dataset. Other programs have a state.json, too."""
    return _value(folder / "state.json", FILES) is not None


def find_saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved Dataset."""
    files = _value(folder / "state.json", FILES)
    if files is None:
        raise UserError(f"{folder}: no state.json that names the files of this saved dataset")
    listed = [folder / file["filename"] for file in files]
    if missing := [path.name for path in listed if not is_file(path)]:
        raise UserError(f"{folder}: {', '.join(missing[:5])} of this saved dataset is missing")
    return listed


def _value(path: Path, key: str) -> Any:
    """The value of a key in a JSON file; None if there is none. Raises UserError."""
    if not is_file(path):
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    return content.get(key) if isinstance(content, dict) else None
