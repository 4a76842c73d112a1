"""What the README.md of a dataset's folder says of its files, as on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from distsent.data.layouts.split_names import split_called
from distsent.errors import UserError
from distsent.job.keys import to_toml_value

MOST = 4  # datasets of a folder that an error shows


def with_readme(error: UserError, folder: Path) -> UserError:
    """The error of a folder whose files have unclear names, with what its README.md calls them."""
    lines, fix = [*error.lines], error.fix
    for place, keys in enumerate(islice(_splits(folder / "README.md"), MOST)):
        said = " and ".join(f"{key} = {to_toml_value(value)}" for key, value in keys.items())
        lines.append(f"{folder / 'README.md'}: {said} are {'other' if place else 'its'} files")
        fix = fix if place else dict(keys)
    return error if fix == error.fix else UserError(*lines, fix=fix)


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
                if name := split_called(str(split)):
                    found[f"data.{name}"] = path
            if "data.train" in found:
                yield found
    except (OSError, UnicodeError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return
