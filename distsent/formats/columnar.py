"""Files of columns: parquet, Arrow's IPC files and streams (feather too)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.types as kinds

from distsent.errors import UserError
from distsent.formats.column_choice import as_text
from distsent.formats.commands import rewritten
from distsent.formats.compression import seekable, source_of
from distsent.formats.reader import Reader
from distsent.formats.records import first_few, one_line, readable

ROWS = 4096  # read at once
ROW = "row in its file"  # column of the numbers, from 1, where some rows of a file are read


class ColumnarReader(Reader):
    """A file that knows its columns and the number of its rows."""

    _taken = 0
    _module = _in_python = ""  # what reads standard input

    def done(self) -> float:
        return self._taken / max(1, self.rows or 0)

    def rewritten(self, each: str, setup: str = "") -> str:
        source = source_of(self.path, self.name, self.options.compression)
        return rewritten(source, (f"import io,{self._module};{setup}", self._in_python), each)

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The rows as Arrow record batches, with the types of the file; of some rows also ROW."""
        where, first = self.file.where, 1
        wanted = [*dict.fromkeys([*columns, where.column])] if where else columns
        with self, readable(self.name):
            for batch in self._batches(wanted):
                if where:
                    values = values_of(batch.column(where.column))
                    rows = pa.array([str(first + i) for i in range(batch.num_rows)])
                    first += batch.num_rows
                    kept = pa.array(
                        [as_text(value) in where.values for value in values], pa.bool_()
                    )
                    batch = batch.append_column(ROW, rows).filter(kept)
                yield batch

    def _open(self) -> None:
        source = source_of(self.path, self.name, self.options.compression)
        self._file: IO[bytes] = seekable(source)
        try:
            self.schema, self.rows = self._open_table(self._file)
        except UserError:
            raise
        except (pa.ArrowException, OSError, MemoryError) as error:
            self._file.close()
            # A damaged length asks for any number of bytes
            why = one_line(str(error)).rstrip(".")[:80] or "it asks for too much memory"
            raise UserError(f"{self.name}: not {self.format}, or damaged ({why})") from None
        self.resolved["compression"] = source.compression
        self.columns = self.schema.names

    def _open_table(self, file: IO[bytes]) -> tuple[pa.Schema, int]:
        """Schema and number of rows."""
        raise NotImplementedError

    def _batches(self, columns: Sequence[str]) -> Iterable[Any]:
        """Tables or batches that have at least these columns."""
        raise NotImplementedError

    def _read(self, columns: Sequence[str | int]) -> Iterator[tuple[Any, str]]:
        names = self.schema.names
        wanted = [names[c] if isinstance(c, int) else c for c in columns]
        known = [name for name in wanted if name in names]
        if twice := [name for name in known if names.count(name) > 1]:
            raise UserError(f"{self.name}: two columns are called {first_few(twice)}; rename one")
        for batch in self._batches(known):
            lists = [values_of(batch.column(name)) for name in known]
            for row in range(batch.num_rows):
                self._taken += 1
                yield {name: values[row] for name, values in zip(known, lists, strict=True)}, ""


class ParquetReader(ColumnarReader):
    """parquet: some row groups at a time."""

    format = "parquet"
    _module = "pyarrow.parquet as p"
    # Not read_table: one of its threads aborts every tenth Python as it ends
    _in_python = "p.ParquetFile(io.BytesIO(sys.stdin.buffer.read())).read().to_pylist()"

    def _open_table(self, file: IO[bytes]) -> tuple[pa.Schema, int]:
        from pyarrow.parquet import ParquetFile

        self._table = ParquetFile(file)
        return self._table.schema_arrow, self._table.metadata.num_rows

    def _batches(self, columns: Sequence[str]) -> Iterable[Any]:
        return self._table.iter_batches(ROWS, columns=[*columns])


class ArrowReader(ColumnarReader):
    """arrow: an IPC file (feather) or an IPC stream, which save_to_disk writes."""

    format = "arrow"
    _module = "pyarrow as p"
    _in_python = "p.ipc.open_file(sys.stdin.buffer.read()).read_all().to_pylist()"

    def _open_table(self, file: IO[bytes]) -> tuple[pa.Schema, int]:
        stream = file.read(6) != b"ARROW1"
        file.seek(0)
        open_ipc = pa.ipc.open_stream if stream else pa.ipc.open_file
        reader = open_ipc(file)
        rows = sum(batch.num_rows for batch in _every(reader, stream))
        file.seek(0)
        self._reader, self._stream = open_ipc(file), stream
        if stream:
            self._in_python = self._in_python.replace("open_file", "open_stream")
        return reader.schema, rows

    def _batches(self, columns: Sequence[str]) -> Iterable[Any]:
        for batch in _every(self._reader, self._stream):
            # Damaged offsets would read beyond the buffers
            batch.select([*columns]).validate(full=True)
            for start in range(0, batch.num_rows, ROWS):
                yield batch.slice(start, ROWS)


def _every(reader: Any, stream: bool) -> Iterator[pa.RecordBatch]:
    """The batches of a stream or a file."""
    if stream:
        yield from reader
        return
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)


def values_of(column: pa.Array) -> list[Any]:
    """The values of a column. Bytes that are not UTF-8 are lone surrogates in its texts."""
    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    raw = kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_binary_view(kind)
    if not raw:
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            column = column.cast("large_binary")
    found = column.to_pylist()
    return [None if x is None else x.decode(errors="surrogateescape") for x in found]
