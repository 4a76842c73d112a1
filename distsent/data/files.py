"""Rows in files: what a split is made of, each read once and then kept as an Arrow table."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from distsent.data import row_cache
from distsent.data.plain_types import class_names, plain_batches, plain_schema
from distsent.data.row_check import Row, RowCheck
from distsent.data.rows import SPLITS, Columns, Part
from distsent.data.sample import sample_columns, table_columns
from distsent.errors import UserError
from distsent.formats.column_choice import SAMPLE, Column
from distsent.formats.columnar import ROW, ColumnarReader
from distsent.formats.compression import data_suffix
from distsent.formats.file import File, Where
from distsent.formats.open import TABLES, open_file
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from distsent.formats.reader import Reader
from distsent.formats.records import check_name, readable
from distsent.job.schema import DataSection

# Raise it when a reader gets other rows from the same files: caches and stores do not look at code
READER = 6
# Keys that say how files are read. Equal rows are equal, whatever these keys say
READING_KEYS = (
    *(f"data.{option.name}" for option in fields(FileOptions)),
    *(f"data.{role}_{how}" for role in ("text", "pair", "label") for how in ("column", "position")),
)
MOST_OPEN = 100  # files of a split between the check of their columns and their rows


@dataclass(frozen=True)
class Reading:
    """What a job says about how rows are read. Equal readings of a file yield equal rows."""

    columns: Columns
    options: FileOptions
    drop: bool  # values that are not text are null, instead of errors
    recorded: ReadAs | None = None  # how the training run read its files

    @classmethod
    def of(cls, data: DataSection, recorded: ReadAs | None = None) -> Reading:
        """That of a job."""
        return cls(Columns.of(data), FileOptions.of(data), data.drop_bad_rows, recorded)


def recorded_reading(record: Mapping[str, Any]) -> ReadAs | None:
    """How the run of this record (its job.json) read the first of its training files."""
    files = record.get("read_as") or {}
    return ReadAs.of(next(iter(files.values()))) if files else None


class RowSource:
    """Rows that are read together: those of a file, or of the files of a layout."""

    paths: tuple[Path, ...]  # of these files, or of their folders

    def __init__(self, name: str, reading: Reading) -> None:
        self.name, self.reading = check_name(name), reading

    @cached_property
    def digest(self) -> str:
        """Hash of the content, which does not depend on its location."""
        raise NotImplementedError

    def columns(self) -> list[str]:
        """The columns of the files. Raises UserError for files that cannot be read."""
        return list(self._kept.about["columns"] if self._kept else self._columns())

    def sample(self, most: int | None = SAMPLE) -> list[Column]:
        """The columns, with the values of `most` rows (None: of all)."""
        table = self.part().table.slice(0, most)
        names = {self.reading.columns.text: "text", self.reading.columns.label: "label"}
        return table_columns(table.select([*names]).rename_columns([*names.values()]))

    def refuse_lists(self) -> None:
        """Raises UserError if the job reads lists of labels, where each class has files."""
        if self.reading.columns.has_lists:
            what = 'each class has files of its own: one label per text, not "multi_label"'
            raise UserError(f"{self.name}: {what} (data.task)")

    def close(self) -> None:
        """Close open files. They are opened again where that is needed."""

    def part(self) -> Part:
        """The rows, from the cache if they are there."""
        rows = self._kept or row_cache.load_or_write(self._key, self.name, self._read)
        about, names = rows.about, rows.about["label_names"]
        read_as = ReadAs.of(about["read_as"])
        return Part(self.name, rows.table, tuple(names) if names else None, read_as)

    @property
    def _key(self) -> str:
        content = (READER, type(self).__name__, self.digest, self.reading)
        return hashlib.sha256(repr(content).encode()).hexdigest()[:32]

    @cached_property
    def _kept(self) -> row_cache.CachedRows | None:
        return row_cache.load(self._key, self.name)

    def _columns(self) -> list[str]:
        raise NotImplementedError

    def _read(self) -> tuple[pa.Schema, Iterable[pa.RecordBatch], dict[str, Any]]:
        """(schema, batches, what `_about` returns)."""
        raise NotImplementedError

    def _about(self, read_as: ReadAs, label_names: Sequence[str] | None = None) -> dict[str, Any]:
        """What is kept with the rows."""
        names = list(label_names) if label_names else None
        return {"columns": self._columns(), "label_names": names, "read_as": read_as.stored()}

    def _schema(self, *more: str) -> pa.Schema:
        columns, lists = self.reading.columns, pa.list_(pa.string())
        schema = pa.schema([(name, pa.string()) for name in (*columns.all, *more)])
        if columns.has_lists and not columns.delimiter:
            place = schema.get_field_index(columns.label)
            schema = schema.set(place, pa.field(columns.label, lists))
        return schema


class TableFile(RowSource):
    """A file with a row for each text, or one part of it, where a JSON file holds the splits.

    `label`: that of all its rows, where each class has files.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        reading: Reading,
        label: str | None = None,
        part: str = "",
        where: Where | None = None,
    ) -> None:
        super().__init__(f"{name} {part}".rstrip(), reading)
        self.path, self.label, self.part_name, self.where = path, label, part, where
        self.paths = () if part else (path,)
        if label is not None:
            self.refuse_lists()

    @cached_property
    def digest(self) -> str:
        where = (self.where.column, sorted(self.where.values)) if self.where else ()
        only = repr((self.label, self.part_name, *where))
        return f"{only} {data_suffix(self.path)} {sha256(self.path, self.name)}"

    @property
    def file(self) -> File:
        options, recorded = self.reading.options, self.reading.recorded
        if (
            self.label is not None
            and options.format == "auto"
            and data_suffix(self.path) not in TABLES
        ):
            options = replace(options, format="lines")
        lists = self.reading.columns.has_lists and not self.reading.columns.delimiter
        known = self.part_name, self.where, lists
        return File(self.path, self.name, options, True, recorded, *known)

    def close(self) -> None:
        if reader := self.__dict__.pop("_reader", None):
            reader.__exit__()

    @cached_property
    def _reader(self) -> Reader:
        return open_file(self.file)

    def _columns(self) -> list[str]:
        columns, found = self.reading.columns, self._reader.columns
        if found is None and self.label is not None:
            return [columns.text, columns.label]
        if found is None:
            next(self._reader.records(()), None)  # raises the error of the first row
        return [*(found or ()), *([columns.label] if self.label is not None else ())]

    def sample(self, most: int | None = SAMPLE) -> list[Column]:
        columns = sample_columns(self.file, most)
        if self.label is not None:
            rows = max((column.rows for column in columns), default=0)
            columns.append(Column("label"))
            columns[-1].add([self.label] * rows)
        return columns

    def _read(self) -> tuple[pa.Schema, Iterable[pa.RecordBatch], dict[str, Any]]:
        reader, columns = self._reader, self.reading.columns
        names = columns.in_file(self._columns())
        if isinstance(reader, ColumnarReader) and self._is_plain(reader.schema, names):
            keys = columns.keys_in(self._columns())
            if twice := [key for key in keys.values() if isinstance(key, int)]:
                found = f"{self.name}: column {twice[0]} has the name of another one"
                raise UserError(f"{found}; rename it: {reader.format} is read by name")
            label_names = [class_names(reader.schema, names[c]) for c in columns.of_labels]
            about = self._about(reader.read_as, next(filter(None, label_names), None))
            schema = plain_schema(reader.schema, names)
            batches = reader.batches(list(names.values()))
            if self.where:
                names, schema = {**names, ROW: ROW}, schema.append(pa.field(ROW, pa.string()))
            batches = plain_batches(batches, names, schema)
        else:
            about = self._about(reader.read_as)
            schema = self._schema(*([ROW] if self.where else []))
            batches = row_cache.batches_of(self._rows(names), schema)
        return schema, _counted(batches, None if self.where else reader.rows, self.name), about

    def _is_plain(self, schema: pa.Schema, names: Mapping[str, str]) -> bool:
        """Whether the columns may be read as they are: others are checked row by row."""
        columns = self.reading.columns
        if self.label is not None:
            return False
        texts = [schema.field(names[column]).type for column in columns.texts]
        labels = [schema.field(names[column]).type for column in columns.of_labels]
        return not any(map(pa.types.is_nested, texts)) and not any(map(pa.types.is_struct, labels))

    def _rows(self, names: Mapping[str, str]) -> Iterator[Row]:
        columns, label = self.reading.columns, self.label
        keys = columns.keys_in(self._columns())
        called, drop = [names[c] for c in columns.all], self.reading.drop
        check = RowCheck(self.name, called, columns, drop, self._reader)
        texts, places = [keys[c] for c in columns.texts], [keys[c] for c in columns.of_labels]
        wanted = texts if label is not None else [*texts, *places]
        for row, values, _ in self._reader.records(wanted):
            if isinstance(values, str):
                yield check(row, [values] * len(texts), [label])
                continue
            get = values.get
            labels = [*map(get, places)] if label is None else [label]
            checked = check(row, [*map(get, texts)], labels)
            yield (*checked, str(row)) if self.where else checked


def sha256(path: Path, name: str) -> str:
    """The hash of a file's bytes."""
    with readable(name), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _counted(
    batches: Iterable[pa.RecordBatch], expected: int | None, name: str
) -> Iterator[pa.RecordBatch]:
    """The batches, which together must have as many rows as were counted before."""
    rows = 0
    for batch in batches:
        rows += batch.num_rows
        yield batch
    if expected not in (None, rows):
        raise RuntimeError(f"{name}: {rows:,} rows read, {expected:,} counted; report it")


class Files:
    """The splits of a dataset in files."""

    def __init__(
        self, splits: Mapping[str, Sequence[RowSource]], notes: Sequence[str] = ()
    ) -> None:
        self._sources = {split: splits[split] for split in SPLITS if split in splits}
        self.splits, self.notes = (*self._sources,), (*notes,)

    def fingerprint(self) -> str:
        """Hash of the content, which does not depend on its location, and of how it is read."""
        content = [(split, one.digest) for split, some in self._sources.items() for one in some]
        reading = next(one.reading for some in self._sources.values() for one in some)
        how = (READER, reading.options, reading.recorded)
        return hashlib.sha256(repr((how, content)).encode()).hexdigest()

    def columns(self, split: str) -> list[tuple[str, list[str]]]:
        """(file, its columns) for each file of the split."""
        found = []
        for one in self._sources[split]:
            found.append((one.name, one.columns()))
            if len(found) > MOST_OPEN:
                one.close()
        return found

    def sources(self, split: str) -> list[RowSource]:
        """What the split is made of."""
        return [*self._sources.get(split, ())]

    def sample(self, split: str, most: int | None = SAMPLE) -> list[tuple[str, list[Column]]]:
        """(file, its columns with the values of `most` rows) for each file of the split."""
        return [(one.name, one.sample(most)) for one in self._sources[split]]

    def parts(self, split: str, columns: Columns) -> list[Part]:
        """The rows of each file. `columns` are those of the reading."""
        return [one.part() for one in self._sources[split]]
