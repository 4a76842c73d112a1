"""The token store: a dataset tokenized once, as memory-mapped arrays, for all runs that need it.

A store is a folder named by a hash of content, selection, tokenizer and length. It is complete or
absent: built under another name in the same parent, synced, renamed. A process that needs a store
while another one builds it waits.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distsent.data.dataset import TextDataset, open_dataset
from distsent.data.labels.label_table import label_table
from distsent.data.labels.names import Naming
from distsent.data.tokens.batch_tokenizer import BatchTokenizer
from distsent.data.tokens.builder import building, damage, explained
from distsent.data.tokens.long_texts import CUT, LOST, READ
from distsent.data.tokens.places import place_of
from distsent.data.tokens.tokenize import FORMAT, Progress, join_parts, write_part
from distsent.errors import FAILED, UserError
from distsent.formats.read_as import ReadAs, lines_of
from distsent.storage import appears, is_folder, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distsent.distributed.world import World
    from distsent.job.job import Job
    from distsent.job.schema import DataSection


@dataclass(frozen=True)
class Tokens:
    """The tokens of one split, memory-mapped: memory does not grow with the dataset."""

    ids: np.ndarray  # (T,) uint16 or int32, special tokens included
    offsets: np.ndarray  # (w + 1,) int64: window i is ids[offsets[i] : offsets[i + 1]]
    labels: np.ndarray  # (n,) int32; multi_label: (n, L) uint8; regression: (n, K) float64
    rows: np.ndarray  # (n,) int64: numbers of the rows in their source, ascending
    truncated: int  # rows that are longer than max_length
    types: np.ndarray | None = None  # (T,) uint8: 1 for the tokens of the second text of a pair
    # (n + 1,) int64: row i has the windows from windows[i] to before windows[i + 1]; None: one each
    windows: np.ndarray | None = None
    places: np.ndarray | None = None  # (n,) bytes: of `TokenStore.place`, where rows alone tell not

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> np.ndarray:
        """The token ids of a row, of all its windows one after another."""
        return self.ids[self.span(row)]

    def span(self, row: int) -> slice:
        """The places of a row's tokens in `ids` and `types`."""
        first, stop = (row, row + 1) if self.windows is None else self.windows[row : row + 2]
        return slice(int(self.offsets[first]), int(self.offsets[stop]))

    def lengths(self, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Number of tokens of these rows, int64. Reads the offsets of these rows only."""
        if self.windows is None:
            return self.offsets[1:][rows] - self.offsets[:-1][rows]
        return self.offsets[self.windows[1:][rows]] - self.offsets[self.windows[:-1][rows]]

    def counts(self, rows: np.ndarray) -> np.ndarray | None:
        """Number of windows of these rows, int64; None: one each."""
        return None if self.windows is None else self.windows[1:][rows] - self.windows[:-1][rows]

    def window_spans(self, rows: np.ndarray) -> list[slice]:
        """The places in `ids` and `types` of all windows of rows (n,), one row after another."""
        windows = self._windows_of(rows)
        starts, stops = self.offsets[:-1][windows], self.offsets[1:][windows]
        return list(map(slice, starts.tolist(), stops.tolist()))

    def window_lengths(self, rows: np.ndarray) -> np.ndarray:
        """Number of tokens of all windows of rows (n,), one row after another, int64."""
        windows = self._windows_of(rows)
        return self.offsets[1:][windows] - self.offsets[:-1][windows]

    def sum_windows(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Per row, in the shape of `rows`, the sum of the values of its windows."""
        counts = self.counts(rows.ravel())
        if counts is not None and len(counts):
            values = np.add.reduceat(values, np.cumsum(counts) - counts)
        return values.reshape(rows.shape)

    def _windows_of(self, rows: np.ndarray) -> np.ndarray:
        counts = self.counts(rows)
        if self.windows is None or counts is None:
            return rows
        first = np.repeat(self.windows[:-1][rows] - (np.cumsum(counts) - counts), counts)
        return first + np.arange(len(first))


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
            with named(folder / file):
                arrays.setdefault(split, {})[what] = np.load(folder / file, mmap_mode="r")
        cut = {name: split["truncated"] for name, split in meta["splits"].items()}
        splits = {name: Tokens(**arrays[name], truncated=cut[name]) for name in cut}
        return cls(folder, splits, tuple(meta["label_names"]), meta)

    @property
    def task(self) -> str:
        """The `data.task` of its labels."""
        return str(self.meta.get("task", "single_label"))

    def place(self, split: str, row: int) -> tuple[str, int]:
        """(file, number in it from 1) of a row of a split; each text a file: 1. Not of train.

        Files are called as they were when the store was built: equal ones share a store.
        """
        tokens, parts = self.splits[split], self.meta["splits"][split]["parts"]
        return place_of(row, int(tokens.rows[row]), parts, tokens.places)

    @property
    def label_table(self) -> list[str]:
        """What each split has of each class, or of each number, as lines of a table."""
        return label_table(self.label_names, self.meta["splits"])

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
        how = READ[self.meta.get("long", CUT)]
        inside = ", data.template included," if "template" in self.meta else ""
        for name, split in self.meta["splits"].items():
            rows, cut, unknown = split["rows"], split["truncated"], split["unknown"]
            for count, what in (
                (split.get("long", cut), f"have more than {limit} tokens{inside} and {how}"),
                (cut if "long" in split else 0, LOST),
                (unknown, "consist of words that the tokenizer does not know"),
            ):
                if count:
                    lines.append(f"{name}: {count:,} of {rows:,} texts ({count / rows:.1%}) {what}")
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
    encode = BatchTokenizer.of(tokenizer, data, max_length)
    report = progress or (lambda done, total: None)
    log = log or (lambda line: print(f"distsent: {line}", file=sys.stderr, flush=True))
    with ExitStack() as stack:

        def start() -> tuple[str, str, list[str], list[str]]:
            for note in dataset.notes:
                log(note)
            content = (FORMAT, dataset.fingerprint, encode.digest, encode.max_length)
            store = folder / hashlib.sha256(repr(content).encode()).hexdigest()[:32]
            temporary = stack.enter_context(building(store, report, log))
            warnings = dataset.find_warnings() if temporary else []
            key = [socket.gethostname(), dataset.fingerprint, encode.digest]
            return str(store), str(temporary or ""), warnings, key

        def write() -> None:
            if not appears(lambda: is_folder(temporary), folder):
                what = f"{temporary} is not on every node; data.store must be shared"
                raise UserError(what, code=FAILED)
            with explained(folder):
                write_part(temporary, dataset, encode, workers.rank, workers.size, report)

        def finish() -> None:
            join_parts(temporary, dataset, encode, workers.size, warnings)
            stack.close()

        store, unfinished, warnings, key = workers.on_main(start, "store.start")
        if workers.size > 1:
            check = partial(check_key, dataset, encode, workers.rank, *key)
            workers.all_or_raise(check, "store.key")
        if unfinished:
            temporary = Path(unfinished)
            workers.all_or_raise(write, "store.write")
            workers.on_main(finish, "store.finish")
    return await_store(Path(store))


def await_store(folder: Path) -> TokenStore:
    """The store that rank 0 has found complete. Other hosts may not see it at once.

    Raises UserError, with code FAILED, if they never do.
    """
    if not appears(lambda: not damage(folder), folder.parent):
        why, host = damage(folder), socket.gethostname()
        problem = f"{folder}: rank 0 has this token store, but {host} does not see it ({why})"
        raise UserError(f"{problem}; data.store must be shared by all hosts", code=FAILED)
    return TokenStore.open(folder)


def check_key(
    dataset: TextDataset, encode: BatchTokenizer, rank: int, host: str, rows: str, tokenizer: str
) -> None:
    """Raise UserError unless this rank would tokenize as rank 0 on `host` does."""
    where = f"on rank {rank} ({socket.gethostname()}) than on rank 0 ({host})"
    if dataset.fingerprint != rows:
        raise UserError(f"data.source = {dataset.data.source!r} has other rows {where}")
    if encode.digest != tokenizer:
        fix = "give all nodes the same model, transformers and tokenizers"
        raise UserError(f"model.name: its tokenizer is another one {where}; {fix}")


def token_store_folder(job: Job) -> Path:
    """Where a job's token stores are: beside its runs, or in data.store."""
    return Path(job.data.store or Path(job.run.dir) / ".tokens")
