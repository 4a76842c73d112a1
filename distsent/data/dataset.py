"""The dataset of a job: where its rows come from, and which of them it uses for what."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from distsent.data import checks, demo
from distsent.data import splits as selection
from distsent.data.column_choice import Column
from distsent.data.diagnosis import diagnose
from distsent.data.files import Files, Tree, find_files
from distsent.data.hub import Hub
from distsent.data.labels import read_labels
from distsent.data.rows import Columns, Part, Rows
from distsent.errors import UserError
from distsent.job.known_datasets import KNOWN_DATASETS, known_classes
from distsent.job.schema import DataSection


def open_dataset(data: DataSection, seed: int, only: str | None = None) -> TextDataset:
    """The dataset of a job. `only`: one split, uncut, to score it; there need not be a train."""
    name, path = data.source, Path(data.source).expanduser()
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name) and not path.exists()
    if name == "demo":
        source: Source = Demo()
    elif name in KNOWN_DATASETS or is_hub_id:
        source = Hub(name, data.config, data.revision)
    else:
        source = find_files(path)
    return TextDataset(data, seed, source, only)


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
        return self.source.read(self.source.columns.text, self.rows[rows])

    def pairs(self, rows: slice | np.ndarray) -> list[str] | None:
        """The second texts; None without data.pair_column."""
        column = self.source.columns.pair
        return self.source.read(column, self.rows[rows]) if column else None

    def origin(self, row: int) -> str:
        """File and row that the split's row number `row` comes from: "train.csv, row 17"."""
        return self.source.origin(int(self.rows[row]))


class TextDataset:
    """Labeled texts in splits (train, validation, test). Reads the rows only when it must."""

    def __init__(self, data: DataSection, seed: int, source: Source, only: str | None) -> None:
        self.data, self.seed, self.source, self.only = data, seed, source, only
        # A source that is a single file is the wanted split, whatever its name
        self._inner = "train" if Path(data.source).is_file() else only or ""
        if only and self._inner not in source.splits:
            found = f"it has {', '.join(source.splits)}: use --split {source.splits[0]}"
            raise UserError(f"data.source = {data.source!r} has no {only} split; {found}")

    @property
    def splits(self) -> dict[str, Split]:
        """Raises UserError, a line per mistake, for a dataset that is unfit to train on."""
        return self._content[0]

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._content[1]

    def find_warnings(self) -> list[str]:
        """What a user should know about the rows, one line each. Raises as `splits`."""
        splits, names, warnings = self._content
        hashes = {name: split.hashes for name, split in splits.items()}
        lines = [*warnings, *checks.find_repeated_texts(hashes)]
        if self.data.max_rows and not self.only:
            lines += checks.find_undrawn_classes(splits["train"].labels, names)
        return lines

    @cached_property
    def fingerprint(self) -> str:
        """Hash of content, columns and selection: equal fingerprints, equal rows and order."""
        d = self.data
        columns = (d.text_column, d.pair_column, d.label_column, d.labels, known_classes(d.source))
        cuts = (d.validation_fraction, d.test_fraction, d.pool_splits)
        # Where nothing is drawn, runs of several seeds share a store
        draws = d.validation_fraction or d.test_fraction or d.max_rows or d.max_eval_rows
        seed = self.seed if draws else None
        selected = (columns, (d.max_rows, d.max_eval_rows, *cuts), d.drop_bad_rows, seed)
        source = self.source.fingerprint()
        if self.only:
            source = f"{source} {self._inner} as {self.only}"
        return hashlib.sha256(repr((source, selected)).encode()).hexdigest()

    @cached_property
    def _content(self) -> tuple[dict[str, Split], tuple[str, ...], list[str]]:
        try:
            return self.read()
        except UserError as error:
            seed, only = self.seed, self.only
            raise diagnose(
                error, self.data, lambda data: open_dataset(data, seed, only).read()
            ) from None

    def read(self) -> tuple[dict[str, Split], tuple[str, ...], list[str]]:
        """The splits, class names and warnings. Raises at the first kind of mistake."""
        data, source = self.data, self.source
        columns = Columns(data.text_column, data.pair_column, data.label_column)
        drop = data.drop_bad_rows
        old_names = {self.only: self._inner} if self.only else {s: s for s in source.splits}
        files = [file for old in old_names.values() for file in source.columns(old)]
        lines, fix = checks.find_column_errors(
            files, columns, lambda: chain.from_iterable(map(source.sample, old_names.values()))
        )
        if not self.only:
            pooled = (selection.POOL,) if data.pool_splits else source.splits
            more, other = selection.find_split_errors(pooled, data)
            lines, fix = lines + more, fix | other
        if lines:
            raise UserError(*lines, fix=fix)
        parts = {name: source.parts(old, columns, drop) for name, old in old_names.items()}
        if data.pool_splits and not self.only:
            parts = {selection.POOL: [part for split in parts.values() for part in split]}
        rows = {name: Rows(some, columns) for name, some in parts.items()}
        scans = {name: checks.scan_texts(some) for name, some in rows.items()}
        wanted = data.labels if isinstance(data.labels, tuple) else None
        labels = read_labels(rows, wanted, known_classes(data.source))
        good, dropped = checks.find_good_rows(rows, scans, labels, drop)
        warnings = [*dropped, *checks.check_classes(good, labels)]
        chosen = {name: (name, some) for name, some in good.items()}
        if not self.only:
            chosen = selection.select_rows(labels.indices, good, data, self.seed)
        splits = {
            name: Split(rows[old], some, labels.indices[old][some], scans[old][1][some])
            for name, (old, some) in chosen.items()
        }
        return splits, labels.names, warnings


class Demo:
    """The generated demo dataset."""

    splits = tuple(demo.SIZES)

    def fingerprint(self) -> str:
        return demo.FINGERPRINT

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(f"demo {split}", ["text", "label"])]

    def sample(self, split: str) -> list[tuple[str, list[Column]]]:
        return [(file, [*map(Column, names)]) for file, names in self.columns(split)]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        reviews = demo.reviews()[split]
        table = pa.table({"text": reviews.texts, "label": reviews.labels})
        return [Part(f"demo {split}", table, demo.LABEL_NAMES)]


# `splits` are those of train, validation and test that exist. Only `parts` reads the rows
Source = Files | Tree | Hub | Demo
