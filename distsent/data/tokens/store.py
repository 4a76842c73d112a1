"""The token store: a dataset tokenized once, as memory-mapped arrays, for all runs that need it.

A store is a folder named by a hash of content, selection, tokenizer and length. It is complete or
absent: built under another name in the same parent, synced, renamed. A process that needs a store
while another one builds it waits.
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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distsent.data.dataset import open_dataset
from distsent.data.labels.class_table import class_table
from distsent.data.labels.names import Naming
from distsent.data.rows import Columns
from distsent.data.tokens.tokenize import FORMAT, BatchTokenizer, Progress, join_parts, write_part
from distsent.errors import FAILED, UserError
from distsent.formats.read_as import ReadAs, lines_of
from distsent.lock import is_old, locked
from distsent.storage import sync

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distsent.distributed.world import World
    from distsent.job.job import Job
    from distsent.job.schema import DataSection


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split, memory-mapped: memory does not grow with the dataset."""

    ids: np.ndarray  # (T,) uint16 or int32, special tokens included
    offsets: np.ndarray  # (n + 1,) int64: row i is ids[offsets[i] : offsets[i + 1]]
    labels: np.ndarray  # (n,) int32
    rows: np.ndarray  # (n,) int64: numbers of the rows in their source, ascending
    truncated: int  # rows that are longer than max_length
    types: np.ndarray | None = None  # (T,) uint8: 1 for the tokens of the second text of a pair

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> np.ndarray:
        """The token ids of a row."""
        return self.ids[self.span(row)]

    def span(self, row: int) -> slice:
        """The places of a row's tokens in `ids` and `types`."""
        return slice(int(self.offsets[row]), int(self.offsets[row + 1]))

    def lengths(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Number of tokens of these rows, int64. Reads the offsets of these rows only."""
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
        arrays: dict[str, dict[str, Any]] = {}
        for file in meta["files"]:
            split, what, _ = file.split(".")
            arrays.setdefault(split, {})[what] = np.load(folder / file, mmap_mode="r")
        cut = {name: split["truncated"] for name, split in meta["splits"].items()}
        splits = {name: Tokens(**arrays[name], truncated=cut[name]) for name in cut}
        return cls(folder, splits, tuple(meta["label_names"]), meta)

    @property
    def class_table(self) -> list[str]:
        """The rows of each class in each split, as lines of a table."""
        counts = {name: split["classes"] for name, split in self.meta["splits"].items()}
        return class_table(self.label_names, counts)

    @property
    def read_as(self) -> dict[str, ReadAs]:
        """How each file of the dataset was read, by its name."""
        return {name: ReadAs.of(how) for name, how in self.meta["read_as"].items()}

    @property
    def notes(self) -> list[str]:
        """How the files were read, and what a user should know about the dataset, a line each."""
        return [*lines_of(self.read_as), *self.warnings]

    @property
    def warnings(self) -> list[str]:
        """What a user should know about the dataset, one line each."""
        lines, limit = [*self.meta["warnings"]], self.meta["max_length"]
        for name, split in self.meta["splits"].items():
            cut, rows = split["truncated"], split["rows"]
            if cut:
                share = f"{name}: {cut:,} of {rows:,} texts ({cut / rows:.1%})"
                lines.append(f"{share} have more than {limit} tokens and are truncated")
            if unknown := split["unknown"]:
                share = f"{name}: {unknown:,} of {rows:,} texts ({unknown / rows:.1%})"
                lines.append(f"{share} consist of words that the tokenizer does not know")
        return lines


def open_token_store(
    data: DataSection,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    folder: Path,
    *,
    workers: World,
    progress: Progress | None = None,
    log: Callable[[str], None] | None = None,
    only: str | None = None,
    naming: Naming | None = None,
    recorded: ReadAs | None = None,
) -> TokenStore:
    """The token store of a job's dataset, built first if it is missing. `folder` has all stores.

    All `workers` call this and share the work; the bytes do not depend on their number.
    `progress` gets (rows done, rows in all), or (0, 0) while another process builds the store; if
    it raises, nothing is left. `log` gets lines for the user. `only`: one split, to score it.
    `naming`: what names the classes, if it is not the job.
    """
    dataset = open_dataset(data, seed, only, recorded, naming)
    encode = BatchTokenizer(tokenizer, max_length, pairs=Columns.of(data).pair is not None)
    report = progress or (lambda done, total: None)
    log = log or (lambda line: print(f"distsent: {line}", file=sys.stderr, flush=True))
    with ExitStack() as stack:

        def start() -> tuple[str, str, str, list[str]]:
            for note in dataset.notes:
                log(note)
            content = (FORMAT, dataset.fingerprint, encode.digest, encode.max_length)
            store = folder / hashlib.sha256(repr(content).encode()).hexdigest()[:32]
            temporary = stack.enter_context(_building(store, report, log))
            warnings = dataset.find_warnings() if temporary else []
            return str(store), str(temporary or ""), dataset.fingerprint, warnings

        def write() -> None:
            if not temporary.is_dir():
                raise UserError(f"{temporary} is not on every node; data.store must be shared")
            if dataset.fingerprint != fingerprint:
                where = f"on rank {workers.rank} than on rank 0"
                raise UserError(f"data.source = {data.source!r} has other rows {where}")
            with _explained(folder):
                write_part(temporary, dataset, encode, workers.rank, workers.size, report)

        def finish() -> None:
            join_parts(temporary, dataset, encode, workers.size, warnings)
            stack.close()

        store, building, fingerprint, warnings = workers.on_main(start, "store.start")
        if building:
            temporary = Path(building)
            workers.all_or_raise(write, "store.write")
            workers.on_main(finish, "store.finish")
    return TokenStore.open(Path(store))


def token_store_folder(job: Job) -> Path:
    """Where a job's token stores are: beside its runs, or in data.store."""
    return Path(job.data.store or Path(job.run.dir) / ".tokens")


@contextmanager
def _building(store: Path, progress: Progress, log: Callable[[str], None]) -> Iterator[Path | None]:
    """A temporary folder to build the store in; None if the store is complete.

    If the context ends well, the temporary folder is renamed to the store; otherwise deleted.
    """
    if not damage(store):
        yield None
        return

    def on_wait(owner: str) -> None:
        log(f"waiting for {owner}, which is building the same token store")

    parent = store.parent
    with _explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        with locked(parent / f".{store.name}.lock", on_wait, lambda: progress(0, 0)) as lock:
            why = damage(store)
            if not why:
                yield None
                return
            if not lock.works:
                log(f"{parent}: the file system has no locks; another process may build the same")
            if store.exists():
                log(f"{store}: the token store is damaged ({why}); building it again")
            ours = f".{store.name}.{lock.reach}-"
            for path in parent.glob(f".{store.name}.*-*"):  # what killed builders left
                if path.is_dir() and (path.name.startswith(ours) or is_old(path)):
                    shutil.rmtree(path, ignore_errors=True)
            temporary = (
                parent / f"{ours}{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
            )
            temporary.mkdir()
            try:
                yield temporary
                _publish(temporary, store, lock.works)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)


def damage(folder: Path) -> str | None:
    """Why `folder` is not a complete token store; None if it is.

    Raises UserError with code FAILED where that cannot be told now: running jobs may read it.
    """
    try:
        files = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["files"]
        for name, size in files.items():
            found = (folder / name).stat().st_size
            if found != size:
                return f"{name} has {found:,} bytes instead of {size:,}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "meta.json is not readable"
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            return "it is a file"
        line = f"the token store cannot be read now ({error.strerror}); it was left as it is"
        raise UserError(f"{folder}: {line}", code=FAILED) from None
    return None


def _publish(temporary: Path, store: Path, locks: bool) -> None:
    """Rename into place. A second builder, where there are no `locks`, finds an equal store."""
    if store.exists() and damage(store):
        broken = temporary.with_name(f"{temporary.name}-broken")
        os.rename(store, broken)
        if locks:  # else the second builder may have it open
            shutil.rmtree(broken, ignore_errors=True)
    try:
        os.rename(temporary, store)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or damage(store):
            raise
    sync(store.parent)


@contextmanager
def _explained(parent: Path) -> Iterator[None]:
    """A full disk or a folder that cannot be written is one line: the user can fix it."""
    try:
        yield
    except OSError as error:
        line = f"the token store cannot be written ({error.strerror or error}); see data.store"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            line = "no space left for the token store; free some, or choose another data.store"
        raise UserError(f"{parent}: {line}") from error
