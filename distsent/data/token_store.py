"""The token store: a corpus tokenised once, as memory-mapped arrays, for every run that wants the same tokens.

A store is a folder named by a hash of content, selection, tokenizer and length. It is complete or absent: built under
another name in the same parent, synced, renamed. Whoever wants a store that is being built waits for it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from distsent.data.checks import check
from distsent.data.dataset import TextDataset, open_dataset
from distsent.data.lock import Lock
from distsent.data.tokenize import FORMAT, BatchTokenizer, Progress, join_parts, write_part
from distsent.errors import UserError
from distsent.fsync import sync

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distsent.job.job import Job
    from distsent.job.schema import DataSection

T = TypeVar("T")
ALL = slice(None)
OLD = 24 * 3600  # seconds after which a half-built store of another host counts as left behind


@dataclass(frozen=True)
class Tokens:
    """One split's tokens, end to end, memory-mapped: a worker's memory does not grow with the corpus."""

    ids: np.ndarray  # (T,) uint16 or int32, special tokens included
    offsets: np.ndarray  # (n + 1,) int64: row i is ids[offsets[i] : offsets[i + 1]]
    labels: np.ndarray  # (n,) int32
    rows: np.ndarray  # (n,) int64: number of the row in its source, ascending
    types: np.ndarray | None  # (T,) uint8: 1 for the tokens of the second text of a pair
    truncated: int  # rows that were longer than the store's max_length

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> np.ndarray:
        """The token ids of a row."""
        return self.ids[self.span(row)]

    def span(self, row: int) -> slice:
        """Where a row's tokens stand in `ids` and `types`."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def lengths(self, rows: np.ndarray | slice = ALL) -> np.ndarray:
        """Tokens of each of these rows, int64; of a few rows it looks at a few offsets only, whatever the corpus."""
        return self.offsets[1:][rows] - self.offsets[:-1][rows]


@dataclass(frozen=True)
class TokenStore:
    """A complete token store, open for reading."""

    folder: Path
    splits: dict[str, Tokens]
    label_names: tuple[str, ...]
    meta: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> TokenStore:
        """The store in `folder`. Raises UserError when it is not complete."""
        if why := damage(folder):
            raise UserError(f"{folder}: not a complete token store ({why})")
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))

        def array(split: str, what: str) -> np.ndarray:
            return np.load(folder / f"{split}.{what}.npy", mmap_mode="r")

        splits = {
            name: Tokens(
                **{what: array(name, what) for what in ("ids", "offsets", "labels", "rows")},
                types=array(name, "types") if f"{name}.types.npy" in meta["files"] else None,
                truncated=split["truncated"],
            )
            for name, split in meta["splits"].items()
        }
        return cls(folder, splits, tuple(meta["label_names"]), meta)

    @property
    def warnings(self) -> list[str]:
        """What a user should know about the corpus, one line each."""
        return [*self.meta["warnings"], *self._cuts()]

    def _cuts(self) -> Iterator[str]:
        for name, split in self.meta["splits"].items():
            if cut := split["truncated"]:
                yield (
                    f"{name}: {cut:,} of {split['rows']:,} texts ({cut / split['rows']:.1%}) are longer than "
                    f"{self.meta['max_length']} tokens and cut there"
                )


class Workers(Protocol):
    """The processes that build a store together: `distributed.World`, or any other with these."""

    rank: int
    size: int

    def on_main(self, make: Callable[[], T], name: str) -> T: ...

    def all_or_raise(self, make: Callable[[], T], name: str) -> T: ...


def open_token_store(
    data: DataSection,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    folder: Path,
    *,
    workers: Workers,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    only: str | None = None,
) -> TokenStore:
    """The token store of a job's dataset, built first if it is missing. `folder` holds all stores.

    All `workers` call this and share the work; the bytes of the store do not depend on their
    number. `progress` gets (rows done, rows in all), or (0, 0) while another process builds the
    store; if it raises, the work ends and leaves nothing behind. `say` gets lines worth reading at
    once; the default is standard error. `only`: read this split alone, to score it.
    """
    dataset = open_dataset(data, seed, only)
    encode = BatchTokenizer(tokenizer, max_length, pairs=data.pair_column is not None)
    report = progress or (lambda done, total: None)
    with ExitStack() as stack:

        def begin() -> tuple[str, str | None, str, list[str]]:
            building = _building(folder, dataset, encode, report, say or print_line)
            store, temporary = stack.enter_context(building)
            warnings = check(dataset) if temporary else []
            return str(store), str(temporary) if temporary else None, dataset.fingerprint, warnings

        def write(temporary: Path) -> None:
            if not temporary.is_dir():
                raise UserError(
                    f"{temporary} does not exist on every node: set data.store to a shared folder"
                )
            if dataset.fingerprint != fingerprint:
                raise UserError(
                    f"data.source = {data.source!r} holds other rows on rank {workers.rank} than "
                    "on rank 0"
                )
            with _one_line(folder):
                write_part(temporary, dataset, encode, workers.rank, workers.size, report)

        def finish(temporary: Path) -> None:
            about = _about(dataset, encode, warnings)
            join_parts(temporary, dataset, encode, workers.size, about)
            stack.close()

        store, building, fingerprint, warnings = workers.on_main(begin, "store.begin")
        if building is not None:
            workers.all_or_raise(lambda: write(Path(building)), "store.write")
            workers.on_main(lambda: finish(Path(building)), "store.finish")
    return TokenStore.open(Path(store))


def token_store_folder(job: Job) -> Path:
    """Where a job's token stores are: beside its runs, unless data.store says so."""
    return Path(job.data.store or Path(job.run.dir) / ".tokens")


def key(corpus: TextDataset, encode: BatchTokenizer) -> str:
    """A store's name: equal keys, equal bytes."""
    return hashlib.sha256(
        repr((FORMAT, corpus.fingerprint, encode.digest, encode.max_length)).encode()
    ).hexdigest()[:32]


def _about(corpus: TextDataset, encode: BatchTokenizer, warnings: list[str]) -> dict[str, Any]:
    """What `meta.json` says of where the tokens come from. No times, no paths: equal stores have equal bytes."""
    return {
        "format": FORMAT,
        "corpus": corpus.fingerprint,
        "tokenizer": encode.digest,
        "max_length": encode.max_length,
        "warnings": warnings,
    }


@contextmanager
def _building(
    parent: Path,
    corpus: TextDataset,
    encode: BatchTokenizer,
    progress: Progress,
    say: Callable[[str], None],
) -> Iterator[tuple[Path, Path | None]]:
    """(the store's folder, a temporary folder to build it in, or None when it is ready already).

    When the context ends well, what was built is renamed into place; when it fails, nothing is left.
    """
    store = parent / key(corpus, encode)
    if ready(store):
        yield store, None
        return
    with _one_line(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with Lock(parent / f".{store.name}.lock", say, lambda: progress(0, 0)):
            if ready(store):
                yield store, None
                return
            if store.exists():
                say(f"{store}: the token store is damaged ({damage(store)}); it is made again")
            _sweep(store)
            temporary = parent / f"{_prefix(store)}{os.getpid()}-{secrets.token_hex(4)}"
            temporary.mkdir()
            try:
                yield store, temporary
                _publish(temporary, store)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def ready(folder: Path) -> bool:
    """Whether `folder` is a complete token store."""
    return damage(folder) is None


def damage(folder: Path) -> str | None:
    """What makes `folder` no complete token store; None if it is one."""
    try:
        files = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["files"]
        for name, size in files.items():
            if (found := (folder / name).stat().st_size) != size:
                return f"{name} has {found:,} bytes instead of {size:,}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "meta.json is not readable"
    except OSError as error:
        return str(error.strerror)
    return None


def _publish(temporary: Path, store: Path) -> None:
    """Rename into place. Whoever comes second, where locks do not work, finds a store that is as good as its own."""
    if store.exists() and not ready(store):
        broken = temporary.with_name(f"{temporary.name}-broken")
        os.rename(store, broken)
        shutil.rmtree(broken, ignore_errors=True)
    try:
        os.rename(temporary, store)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not ready(store):
            raise
    sync(store.parent)


def _prefix(store: Path) -> str:
    return f".{store.name}.{socket.gethostname()}-"


def _sweep(store: Path) -> None:
    """Remove what builders that were killed left behind: all of this host's, since we hold the lock; others' when old."""
    for path in store.parent.glob(f".{store.name}.*-*"):
        if path.is_dir() and (
            path.name.startswith(_prefix(store)) or time.time() - path.stat().st_mtime > OLD
        ):
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _one_line(parent: Path) -> Iterator[None]:
    """A full disk or a folder that cannot be written is the user's to mend: one line, no traceback."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{parent}: no space left for the token store; free some, or choose another data.store"
            ) from error
        raise UserError(
            f"{parent}: the token store cannot be written ({error.strerror or error}); see data.store"
        ) from error


def print_line(line: str) -> None:
    """Say a line on standard error."""
    print(f"distsent: {line}", file=sys.stderr, flush=True)
