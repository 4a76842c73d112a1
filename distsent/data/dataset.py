"""A job's corpus: where its rows come from, which of them it uses and for what."""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from distsent.data import checks, demo, files, labels
from distsent.data import splits as selection
from distsent.data.hub import KNOWN, Hub
from distsent.data.rows import Columns, Part, Rows, Source
from distsent.errors import UserError

if TYPE_CHECKING:
    from distsent.job.schema import DataSection

# Should a file of a well-known corpus hold bare numbers, this is what they mean.
KNOWN_NAMES = {
    "imdb": ("neg", "pos"),
    "emotion": ("sadness", "joy", "love", "anger", "fear", "surprise"),
    "tweets": ("negative", "neutral", "positive"),
}


def open_dataset(data: DataSection, seed: int, only: str | None = None) -> TextDataset:
    """The corpus of a job's [data] section. Finds the source; rows are read when they are asked for.

    `only`: one split, as the source has it, to be scored; nothing is cut, and there need not be any to train on.
    """
    source = find(data)
    return (
        TextDataset(data, seed, source)
        if only is None
        else TextDataset(data, seed, SingleSplit(source, only, Path(data.source)), scored=True)
    )


def find(data: DataSection) -> Source:
    """The source that `data.source` names: a word that distsent knows, a path, or a hub id."""
    name = data.source
    if name == "demo":
        return Demo()
    if name not in KNOWN and (
        Path(name).expanduser().exists() or not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name)
    ):
        return files.find(Path(name).expanduser())
    return Hub(name, data.config, data.revision)


class Split:
    """The rows of a corpus that serve one purpose. `rows`: their numbers in `source`, int64 (n,), ascending."""

    def __init__(
        self, name: str, source: Rows, rows: np.ndarray, labels: np.ndarray, hashes: np.ndarray
    ) -> None:
        self.name, self.source, self.rows = name, source, rows
        self.labels = labels  # class indices, int64 (n,)
        self.hashes = hashes  # equal for equal texts, uint64 (n,)

    def __len__(self) -> int:
        return len(self.rows)

    def texts(self, rows: slice | np.ndarray) -> list[str]:
        """The texts at these places of the split, in their order."""
        return self.source.texts(self.rows[rows])

    def pairs(self, rows: slice | np.ndarray) -> list[str] | None:
        """The second texts, where the job has a `data.pair_column`."""
        return self.source.pairs(self.rows[rows])

    def origin(self, row: int) -> str:
        """Where the split's row number `row` comes from, as the user counts: "train.csv, row 17"."""
        return self.source.origin(int(self.rows[row]))


class _Content(NamedTuple):
    splits: dict[str, Split]
    label_names: tuple[str, ...]
    warnings: list[str]


class TextDataset:
    """Splits among train, validation and test, and what their classes are called. Reads rows only when it must."""

    def __init__(self, data: DataSection, seed: int, source: Source, scored: bool = False) -> None:
        self.data, self.seed, self.source, self.scored = data, seed, source, scored

    @property
    def splits(self) -> dict[str, Split]:
        return self._content.splits

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._content.label_names

    @property
    def warnings(self) -> list[str]:
        """What reading the rows brought to light."""
        return self._content.warnings

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the content, the columns and the selection: equal fingerprints, equal rows in equal order."""
        data = self.data
        selected = (
            (
                data.text_column,
                data.pair_column,
                data.label_column,
                data.labels,
                KNOWN_NAMES.get(data.source),
            ),
            (
                data.max_rows,
                data.max_eval_rows,
                data.validation_fraction,
                data.test_fraction,
                data.pool_splits,
            ),
            data.drop_bad_rows,
            self.seed if selection.draws(data) else None,
        )
        return hashlib.sha256(repr((self.source.fingerprint(), selected)).encode()).hexdigest()

    @cached_property
    def _content(self) -> _Content:
        data = self.data
        columns = Columns(data.text_column, data.pair_column, data.label_column)
        checks.columns(self.source, columns)
        parts = {
            split: self.source.parts(split, columns, data.drop_bad_rows)
            for split in self.source.splits
        }
        if data.pool_splits and not self.scored:
            parts = {selection.POOL: [part for split in parts.values() for part in split]}
        rows = {split: Rows(some, columns) for split, some in parts.items()}
        if not self.scored:
            selection.demand({split: len(some) for split, some in rows.items()}, data)
        found = {split: checks.texts(some) for split, some in rows.items()}
        classes = labels.read(rows, data.labels, KNOWN_NAMES.get(data.source))
        usable, dropped = checks.usable(rows, found, classes, data.drop_bad_rows)
        unseen = checks.classes(usable, classes)
        chosen = (
            selection.whole(usable)
            if self.scored
            else selection.select(classes.of, usable, data, self.seed)
        )
        splits = {
            name: Split(name, rows[old], some, classes.of[old][some], found[old].hashes[some])
            for name, (old, some) in chosen.items()
        }
        return _Content(splits, classes.names, [*dropped, *unseen])


class SingleSplit:
    """One split of a source. A source that is a single file is that split, whatever it is called."""

    def __init__(self, source: Source, split: str, path: Path) -> None:
        self._source, self.splits = source, (split,)
        self._inner = "train" if path.is_file() else split
        if self._inner not in source.splits:
            there = ", ".join(source.splits)
            raise UserError(
                f"data.source = {str(path)!r} has no {split} split; it has {there}: say --split {source.splits[0]}"
            )

    def fingerprint(self) -> str:
        return f"{self._source.fingerprint()} {self._inner} as {self.splits[0]}"

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return self._source.columns(self._inner)

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        return self._source.parts(self._inner, columns, drop)


class Demo:
    """The demo corpus as a source."""

    name, splits = "demo", tuple(demo.SIZES)

    def fingerprint(self) -> str:
        return hashlib.sha256(Path(demo.__file__).read_bytes()).hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        return [(f"demo {split}", ["text", "label"])]

    def parts(self, split: str, columns: Columns, drop: bool) -> list[Part]:
        import pyarrow as pa

        reviews = demo.reviews()[split]
        table = pa.table({"text": reviews.texts, "label": reviews.labels})
        return [Part(f"demo {split}", table, demo.LABEL_NAMES)]
