"""The dataset of a job: where its rows come from, and which of them it uses for what."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from distsent.data import checks, missing_words
from distsent.data import splits as selection
from distsent.data.column_checks import find_column_errors, find_position_errors
from distsent.data.demo_source import DemoReviews
from distsent.data.diagnosis import diagnose
from distsent.data.files import Files, Reading
from distsent.data.hub import Hub
from distsent.data.labels.classes import Labels, name_files
from distsent.data.labels.names import Naming
from distsent.data.labels.read import read_targets
from distsent.data.layouts.find_files import find_files
from distsent.data.layouts.split_column import check_split_column
from distsent.data.odd_rows import check_odd_rows
from distsent.data.row_arrays import among, take, where
from distsent.data.rows import Columns, Rows
from distsent.data.unlabeled import with_own_header, without_label_column, without_labels
from distsent.errors import UserError
from distsent.formats.column_choice import Column
from distsent.formats.read_as import ReadAs
from distsent.job.known_datasets import KNOWN_DATASETS, known_classes
from distsent.job.rules import HUB_ID, has_own_texts
from distsent.job.schema import DataSection
from distsent.storage import exists, is_file


def open_dataset(
    data: DataSection,
    seed: int,
    only: str | None = None,
    recorded: ReadAs | None = None,
    naming: Naming | None = None,
) -> TextDataset:
    """The dataset of a job. `only`: one split, to score it; there need not be a train.

    `recorded`: how a training read its files. It decides what the files here leave open.
    `naming`: what names the classes, if it is not the job.
    """
    try:
        return _open_dataset(data, seed, only, recorded, naming)
    except UserError as error:
        how = (seed, only, recorded, naming)
        raise diagnose(error, data, lambda data: _open_dataset(data, *how).read()) from None


def _open_dataset(
    data: DataSection,
    seed: int,
    only: str | None,
    recorded: ReadAs | None,
    naming: Naming | None,
) -> TextDataset:
    name, path = data.source, Path(data.source).expanduser()
    is_hub_id = HUB_ID.fullmatch(name) and not exists(path)
    if not has_own_texts(data):
        source: Source = DemoReviews(data)
    elif name in KNOWN_DATASETS or (is_hub_id and name != "demo"):
        source = Hub(data)
    else:
        reading = Reading.of(data, recorded)
        source = find_files(data, None if name == "demo" else path, reading, only)
    naming = naming or Naming.of_job(data.labels, known_classes(name))
    return TextDataset(data, seed, source, naming, only, recorded)


@dataclass(frozen=True)
class Split:
    """The rows of one split."""

    source: Rows
    rows: np.ndarray  # their numbers in `source`, int64 (n,), ascending
    labels: np.ndarray  # class indices, int32 (n,); or as Labels.arrays
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

    def without(self, rows: np.ndarray) -> Split:
        """The split without some of its rows."""
        kept = where(len(self), lambda some: ~among(some, rows))
        arrays: dict[str, Any] = {
            name: take(getattr(self, name), kept) for name in ("rows", "labels", "hashes")
        }
        return replace(self, **arrays)

    def origin(self, row: int) -> str:
        """File and row that the split's row number `row` comes from: "train.csv, row 17"."""
        return self.source.origin(int(self.rows[row]))


@dataclass(frozen=True)
class Content:
    """What a dataset contains."""

    splits: dict[str, Split]
    labels: Labels  # of all rows
    warnings: list[str]
    read_as: dict[str, ReadAs]  # how each file was read, by its name


class TextDataset:
    """Labeled texts in splits (train, validation, test). Reads the rows only when it must."""

    def __init__(
        self,
        data: DataSection,
        seed: int,
        source: Source,
        naming: Naming,
        only: str | None = None,
        recorded: ReadAs | None = None,
    ) -> None:
        self.data, self.seed, self.source = data, seed, source
        self.naming, self.only, self.recorded = naming, only, recorded
        self.notes = source.notes  # what the names of the files leave open, a line each
        # A file that is not divided is the wanted split, whatever its name
        lone = is_file(Path(data.source)) and not (data.split_column or only in source.splits)
        self._inner = "train" if lone else only or ""
        if only and self._inner not in source.splits:
            found = f"it has {', '.join(source.splits)}: use --split {source.splits[0]}"
            raise UserError(f"data.source = {data.source!r} has no {only} split; {found}")

    @property
    def splits(self) -> dict[str, Split]:
        """Raises UserError, a line per mistake, for a dataset that is unfit to train on."""
        return self._content.splits

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._content.labels.names

    @property
    def label_values(self) -> dict[str, str]:
        """The class name of each value of the label column."""
        return self._content.labels.values

    def find_warnings(self) -> list[str]:
        """What a user should know about the rows, one line each. Raises as `splits`."""
        hashes = {name: split.hashes for name, split in self.splits.items()}
        return [*self._content.warnings, *checks.find_repeated_texts(hashes)]

    @cached_property
    def fingerprint(self) -> str:
        """Hash of content, columns and selection: equal fingerprints, equal rows and order."""
        d, columns = self.data, Columns.of(self.data)
        names = (self.naming, d.fold_labels, *(d.drop_labels or ()))
        names += ("allow_empty_labels",) * d.allow_empty_labels
        names += () if d.na_values is None else ("na_values", *d.na_values)
        cuts = (d.validation_fraction, d.test_fraction, d.pool_splits)
        # Where nothing is drawn, runs of several seeds share a store
        draws = d.validation_fraction or d.test_fraction or d.max_rows or d.max_eval_rows
        seed = self.seed if draws else None
        selected = (columns, names, (d.max_rows, d.max_eval_rows, *cuts), d.drop_bad_rows, seed)
        source = self.source.fingerprint()
        if self.only:
            source = f"{source} {self._inner} as {self.only}"
        return hashlib.sha256(repr((source, selected)).encode()).hexdigest()

    @property
    def read_as(self) -> dict[str, ReadAs]:
        """How each file was read, by its name. Like `splits`, it reads the rows."""
        return self._content.read_as

    @cached_property
    def _content(self) -> Content:
        try:
            return self.read()
        except UserError as error:
            naming = self.naming if self.naming.trained else None
            how = (self.seed, self.only, self.recorded, naming)
            raise diagnose(
                error, self.data, lambda data: _open_dataset(data, *how).read()
            ) from None

    def read(self) -> Content:
        """What the dataset contains. Raises at the first kind of mistake."""
        data, drop, columns = self.data, self.data.drop_bad_rows, Columns.of(self.data)
        rows, warnings = self._read_rows()
        read_as = {
            part.name: part.read_as for some in rows.values() for part in some.parts if part.read_as
        }
        if data.pool_splits and not self.only:
            parts = [part for some in rows.values() for part in some.parts]
            rows = {selection.POOL: Rows(parts, columns)}
        scans = {name: checks.scan_texts(x, data.na_values or ()) for name, x in rows.items()}
        if data.na_values is None:
            parts = [part for some in rows.values() for part in some.parts]
            where = f"{name_files(parts)}: column {' and '.join(map(repr, columns.texts))}"
            warnings += missing_words.notes(
                sum((x.short for x in scans.values()), Counter()), where
            )
        labels = read_targets(rows, self.naming, data)
        good, dropped = checks.find_good_rows(rows, scans, labels, drop)
        warnings += [*labels.notes, *dropped, *checks.check_classes(good, labels)]
        warnings += check_odd_rows(rows, good, labels)
        if self.only:
            chosen = {name: (name, some) for name, some in good.items()}
            chosen, notes = selection.keep_rows(labels, chosen, data, self.seed)
        else:
            chosen, notes = selection.select_rows(labels, good, data, self.seed)
        warnings += notes
        splits = {
            name: Split(
                rows[old], some, take(labels.targets(old), some), take(scans[old].hashes, some)
            )
            for name, (old, some) in chosen.items()
        }
        return Content(splits, labels, warnings, read_as)

    def _read_rows(self) -> tuple[dict[str, Rows], list[str]]:
        """All rows of the splits that have labels, and a line for each split that has none."""
        source, columns, data = self.source, Columns.of(self.data), self.data
        old_names = {self.only: self._inner} if self.only else {s: s for s in source.splits}
        files, unused = dict[str, list[tuple[str, list[str]]]](), dict[str, str]()
        for name, old in old_names.items():
            try:
                files[name] = source.columns(old)
            except UserError:
                if not (line := with_own_header(source, old, columns)):
                    raise
                unused[name] = f"{name}: not used, {line}"
        if isinstance(source, Files) and not (self.only or data.split_column or data.pool_splits):
            check_split_column(source.sources("train"))
        unused |= without_label_column(files, columns, lambda name: self._sample([old_names[name]]))
        used = [name for name in files if name not in unused]
        lines, fix = self._find_column_errors({name: files[name] for name in used}, old_names)
        # A split for which there is a fraction may turn out to have no labels
        sure = [name for name in used if not getattr(data, f"{name}_fraction", 0)]
        self._raise_errors(sure, lines, fix)
        rows = {name: Rows(source.parts(old_names[name], columns), columns) for name in used}
        unused |= without_labels(rows, self.naming.indices)
        rows = {name: some for name, some in rows.items() if name not in unused}
        self._raise_errors(list(rows), [], {})
        if self.only in unused:
            lack = f"data.source = {data.source!r}: the {self.only} split has no labels"
            raise UserError(f"{lack} to score it by; predict labels it")
        return rows, [*unused.values()]

    def _find_column_errors(
        self, files: Mapping[str, list[tuple[str, list[str]]]], old_names: Mapping[str, str]
    ) -> tuple[list[str], dict[str, Any]]:
        """A line per mistake in the columns of the first split, or else of the others; a fix."""
        columns = Columns.of(self.data)
        every = [file for some in files.values() for file in some]
        if lines := [*find_position_errors(every, columns)]:
            return lines, {}
        for names in ([*files][:1], [*files][1:]):
            some = [file for name in names for file in files[name]]
            sample = partial(self._sample, [old_names[name] for name in names])
            lines, fix = find_column_errors(some, columns, sample)
            if lines:
                # No fix for files whose columns have different names
                found = {column for _, its in every for column in its}
                lack = {c for c in columns.all if any(c not in its for _, its in some)}
                return lines, {} if found & lack else fix
        return [], {}

    def _sample(self, splits: list[str]) -> Iterable[tuple[str, list[Column]]]:
        return chain.from_iterable(map(self.source.sample, splits))

    def _raise_errors(self, splits: list[str], lines: list[str], fix: dict[str, Any]) -> None:
        """Raises UserError for `lines`, and for splits that the job needs and these do not give."""
        if not self.only:
            names = (selection.POOL,) if self.data.pool_splits else splits
            more, other = selection.find_split_errors(names, self.data)
            unread = [note for note in self.notes if note.startswith("not read")]
            if names and "train" not in names and unread and not self.data.pool_splits:
                more[-1] += f"; {unread[0]}: if it is the training data, data.train names it"
                other = {}  # not to train on a test split
            lines, fix = lines + more, fix | other
        if lines:
            raise UserError(*lines, fix=fix)


# `splits` are those of train, validation and test that exist. Only `parts` reads the rows
Source = Files | Hub | DemoReviews
