"""The dataset of a job: where its rows come from, and which of them it uses for what."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distsent.data import checks, demo
from distsent.data import splits as selection
from distsent.data.files import Files, Tree, find_files
from distsent.data.hub import Hub
from distsent.data.labels import read_labels
from distsent.data.rows import Columns, Part, Rows
from distsent.errors import UserError
from distsent.job.known_datasets import KNOWN_DATASETS, known_classes

if TYPE_CHECKING:
    from distsent.job.schema import DataSection


def open_dataset(data: DataSection, seed: int, only: str | None = None) -> TextDataset:
    """The dataset of a job. `only`: one split, uncut, to score it; there need not be a train."""
    name, path = data.source, Path(data.source).expanduser()
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) and not path.exists()
    source: Source
    if name == "demo":
        source = Demo()
    elif name in KNOWN_DATASETS or is_hub_id:
        source = Hub(name, data.config, data.revision)
    else:
        source = find_files(path)
    if only is None:
        return TextDataset(data, seed, source)
    return TextDataset(data, seed, SingleSplit(source, only, Path(name)), uncut=True)


@dataclass(frozen=True)
class Split:
    """The rows of one split."""

    source: Rows
    rows: np.ndarray  # their numbers in `source`, int64 (n,), ascending
    labels: np.ndarray  # class indices, int64 (n,)
    hashes: np.ndarray  # equal for equal texts, uint64 (n,)

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, rows: slice | np.ndarray) -> list[str]:
        """The texts of these rows of the split, in their order."""
        return self.source.texts(self.rows[rows])

    def pairs(self, rows: slice | np.ndarray) -> list[str] | None:
        """The second texts; None without data.pair_column."""
        return self.source.pairs(self.rows[rows])

    def origin(self, row: int) -> str:
        """File and row that the split's row number `row` comes from: "train.csv, row 17"."""
        return self.source.origin(int(self.rows[row]))


class _Content(NamedTuple):
    splits: dict[str, Split]
    label_names: tuple[str, ...]
    warnings: list[str]


class TextDataset:
    """Labeled texts in splits (train, validation, test). Reads the rows only when it must."""

    def __init__(self, data: DataSection, seed: int, source: Source, uncut: bool = False) -> None:
        self.data, self.seed, self.source, self.uncut = data, seed, source, uncut

    @property
    def splits(self) -> dict[str, Split]:
        """Raises UserError, a line per mistake, for a dataset that is unfit to train on."""
        return self._content.splits

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._content.label_names

    def find_warnings(self) -> list[str]:
        """What a user should know about the rows, one line each. Raises as `splits`."""
        splits, names = self.splits, self.label_names
        undrawn = self.data.max_rows and not self.uncut
        return [
            *self._content.warnings,
            *checks.find_repeated_texts({name: split.hashes for name, split in splits.items()}),
            *(checks.find_undrawn_classes(splits["train"].labels, names) if undrawn else ()),
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of content, columns and selection: equal fingerprints, equal rows and order."""
        d = self.data
        known = known_classes(d.source)
        columns = (d.text_column, d.pair_column, d.label_column, d.labels, known)
        cuts = (d.validation_fraction, d.test_fraction, d.pool_splits)
        seed = self.seed if selection.draws(d) else None
        selected = (columns, (d.max_rows, d.max_eval_rows, *cuts), d.drop_bad_rows, seed)
        return hashlib.sha256(repr((self.source.fingerprint(), selected)).encode()).hexdigest()

    @cached_property
    def _content(self) -> _Content:
        data, source = self.data, self.source
        columns = Columns(data.text_column, data.pair_column, data.label_column)
        files = [file for split in source.splits for file in source.columns(split)]
        checks.check_columns(files, columns)
        parts = {name: source.parts(name, columns, data.drop_bad_rows) for name in source.splits}
        if data.pool_splits and not self.uncut:
            parts = {selection.POOL: [part for split in parts.values() for part in split]}
        rows = {name: Rows(some, columns) for name, some in parts.items()}
        if not self.uncut:
            selection.check_splits({name: len(some) for name, some in rows.items()}, data)
        scans = {name: checks.scan_texts(some) for name, some in rows.items()}
        labels = read_labels(rows, data.labels, known_classes(data.source))
        good, dropped = checks.find_good_rows(rows, scans, labels, data.drop_bad_rows)
        warnings = [*dropped, *checks.check_classes(good, labels)]
        chosen = {name: (name, some) for name, some in good.items()}
        if not self.uncut:
            chosen = selection.select_rows(labels.indices, good, data, self.seed)
        splits = {
            name: Split(rows[old], some, labels.indices[old][some], scans[old].hashes[some])
            for name, (old, some) in chosen.items()
        }
        return _Content(splits, labels.names, warnings)


class SingleSplit:
    """One split of a source. A source that is a single file is that split, whatever its name."""

    def __init__(self, source: Source, split: str, path: Path) -> None:
        self._source, self.splits = source, (split,)
        self._inner = "train" if path.is_file() else split
        if self._inner not in source.splits:
            found = f"it has {', '.join(source.splits)}: use --split {source.splits[0]}"
            raise UserError(f"data.source = {str(path)!r} has no {split} split; {found}")

    def fingerprint(self) -> str:
        return f"{self._source.fingerprint()} {self._inner} as {self.splits[0]}"

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return self._source.columns(self._inner)

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        return self._source.parts(self._inner, columns, drop)


class Demo:
    """The generated demo dataset."""

    splits = tuple(demo.SIZES)

    def fingerprint(self) -> str:
        return demo.FINGERPRINT

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(f"demo {split}", ["text", "label"])]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        import pyarrow as pa

        reviews = demo.reviews()[split]
        table = pa.table({"text": reviews.texts, "label": reviews.labels})
        return [Part(f"demo {split}", table, demo.LABEL_NAMES)]


# `splits` are those of train, validation and test that exist. Only `parts` reads the rows
Source = Files | Tree | Hub | Demo | SingleSplit
