"""Folders that datasets' save_to_disk has written: the Arrow files of each split, in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distsent.data.layouts.split_names import split_called
from distsent.errors import UserError
from distsent.storage import is_file


def find_saved_splits(folder: Path) -> dict[str, list[Path]] | None:
    """The files of each split, train alone for a Dataset; None if the folder is none of them."""
    if is_file(folder / "state.json"):
        return {"train": find_saved_files(folder)}
    if not is_file(folder / "dataset_dict.json"):
        return None
    names = _read(folder / "dataset_dict.json").get("splits", [])
    splits: dict[str, list[Path]] = {}
    for name in names:
        if (split := split_called(name)) and split not in splits:
            splits[split] = find_saved_files(folder / name)
    if not splits:
        raise UserError(f"{folder}: its splits are {', '.join(names)}; data.train names one")
    return splits


def find_saved_files(folder: Path) -> list[Path]:
    """The Arrow files of a saved Dataset."""
    listed = [folder / file["filename"] for file in _read(folder / "state.json")["_data_files"]]
    if missing := [path.name for path in listed if not is_file(path)]:
        raise UserError(f"{folder}: {', '.join(missing[:5])} of this saved dataset is missing")
    return listed


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
