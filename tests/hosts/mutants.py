"""Mistakes with storage, patched into a program's process. The tests must catch each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def listing_swallows_errors() -> None:
    """What `Path.glob` does from Python 3.12 on: a folder that cannot be listed is empty."""
    from distsent.runtime import checkpoint

    real = checkpoint.entries

    def entries(folder: Path) -> list[Path]:
        with suppress(OSError):
            return real(folder)
        return []

    checkpoint.entries = entries  # type: ignore[assignment]


def unreadable_is_damaged() -> None:
    """A checkpoint that cannot be read now is skipped for an older one, and then deleted."""
    from distsent.runtime import checkpoint

    checkpoint.DAMAGED = range(200)  # type: ignore[assignment]


def trouble_is_a_wrong_job() -> None:
    from distsent import errors

    errors.is_trouble = lambda error: False


def numpy_writes_files() -> None:
    """numpy drops what the disk says when it closes a file of its own."""
    import numpy as np

    from distsent.data.tokens import tokenize

    tokenize._save = np.save


def any_error_of_safetensors_is_damage() -> None:
    """It says of any file that it cannot open that there is no such file."""
    from distsent.runtime import checkpoint

    checkpoint._read_tensors = checkpoint.load_file  # type: ignore[assignment]


MUTANTS: Mapping[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        listing_swallows_errors,
        unreadable_is_damaged,
        trouble_is_a_wrong_job,
        numpy_writes_files,
        any_error_of_safetensors_is_damage,
    )
}
