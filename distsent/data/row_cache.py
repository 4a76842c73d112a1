"""Rows as memory-mapped Arrow tables, kept until what they were read from changes.

They lie in the cache folder of datasets. A file of rows counts once its record, a JSON file with
its size and its hash, lies beside it: rows that were cut short or damaged are read again.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from xxhash import xxh3_128

from distsent.errors import UserError
from distsent.lock import is_old, locked
from distsent.machine_errors import NO_SPACE

# Texts and, last, the label or labels
Row = tuple[str | list[str | None] | None, ...]
MOST_ROWS, MOST_CHARACTERS = 4096, 1 << 24  # of a batch: what a process holds in memory


@dataclass(frozen=True)
class CachedRows:
    """Rows, and what was noted about them: a JSON object."""

    table: pa.Table
    about: Mapping[str, Any]


def load(key: str, name: str = "") -> CachedRows | None:
    """The rows kept under `key`, if there are any and they are what was written.

    If they are not, a line says so of `name`.
    """
    rows, record = _paths(key)
    try:
        noted = json.loads(record.read_text(encoding="utf-8"))
        if (found := _size_and_hash(rows)) != noted["file"]:
            raise ValueError(f"{found[0]:,} bytes, written were {noted['file'][0]:,}")
        return CachedRows(_open(rows), noted["about"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        if name:
            line = f"distsent: {name}: its cached rows are damaged; reading it again"
            print(line, file=sys.stderr, flush=True)
        return None


def load_or_write(
    key: str, name: str, read: Callable[[], tuple[pa.Schema, Iterable[pa.RecordBatch], Any]]
) -> CachedRows:
    """The rows under `key`. If there are none, `read` yields (schema, batches, about) of them.

    Processes that need the same rows wait for the one that reads them.
    """
    rows, record = _paths(key)
    with writable(name), locked(rows.with_suffix(".lock"), lambda owner: None, lambda: None):
        if found := load(key):
            return found
        _delete_leftovers(rows)
        schema, batches, about = read()
        with _temporary(rows) as temporary:
            with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
                for batch in batches:
                    out.write_batch(batch)
            text = json.dumps({"file": _size_and_hash(temporary), "about": about})
            record.unlink(missing_ok=True)
            temporary.rename(rows)
        with _temporary(record) as temporary:
            temporary.write_text(text, encoding="utf-8")
            temporary.rename(record)
    return CachedRows(_open(rows), about)


def batches_of(rows: Iterable[Row], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as batches of bounded size: the offsets of a batch's texts have 32 bits."""
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(map(len, filter(None, row)))
        if len(batch) == MOST_ROWS or characters > MOST_CHARACTERS:
            yield pa.record_batch([*zip(*batch, strict=True)], schema=schema)
            characters = 0
            batch.clear()
    if batch:
        yield pa.record_batch([*zip(*batch, strict=True)], schema=schema)


def _folder() -> Path:
    from datasets import config

    return Path(config.HF_DATASETS_CACHE) / "distsent"


def _paths(key: str) -> tuple[Path, Path]:
    stem = _folder() / key
    return stem.with_suffix(".arrow"), stem.with_suffix(".json")


def _open(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()


def _size_and_hash(path: Path) -> list[int | str]:
    digest = xxh3_128()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
        return [file.tell(), digest.hexdigest()]


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """Another name in the same folder. What is left under it is deleted."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _delete_leftovers(path: Path) -> None:
    """Of processes that were killed. Where locks do not work, others may still write theirs."""
    for leftover in path.parent.glob(f".{path.stem}.*"):
        with suppress(OSError):
            if is_old(leftover):
                leftover.unlink()


@contextmanager
def writable(name: str) -> Iterator[Path]:
    """The folder. Raises UserError where rows cannot be written to it."""
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
    except OSError as error:
        fix = "set HF_DATASETS_CACHE to another folder"
        why = f"cannot be written ({error.strerror or error})"
        if error.errno in NO_SPACE:
            why, fix = "has no space left", "free some, or set HF_DATASETS_CACHE to another folder"
        raise UserError(f"{name}: the cache of its rows, {folder}, {why}; {fix}") from error
