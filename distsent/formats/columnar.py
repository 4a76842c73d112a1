"""Files of columns: parquet."""

from collections.abc import Iterator, Sequence
from typing import Any

from distsent.formats.reader import Reader
from distsent.formats.records import readable

ROWS = 4096  # read at once


class ParquetReader(Reader):
    """parquet: some thousand rows at a time."""

    format = "parquet"
    _taken = 0

    def _open(self) -> None:
        from pyarrow.parquet import ParquetFile

        self._file = ParquetFile(self.path)
        self.schema = self._file.schema_arrow
        self.columns = self.schema.names
        self.rows = self._total = self._file.metadata.num_rows

    def batches(self, columns: Sequence[str]) -> Iterator[Any]:
        """The rows as Arrow record batches, with the types of the file."""
        with self, readable(self.name):
            yield from self._file.iter_batches(ROWS, columns=list(columns))

    def done(self) -> float:
        return self._taken / max(1, self._total)

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for batch in self._file.iter_batches(ROWS, columns=list(columns)):
            for values in zip(*(self._python(batch.column(name)) for name in columns), strict=True):
                self._taken += 1
                yield dict(zip(columns, values, strict=True)), ""

    @staticmethod
    def _python(column: Any) -> list:
        try:
            return column.to_pylist()
        except UnicodeDecodeError:
            raw = column.cast("large_binary").to_pylist()
            return [None if x is None else x.decode(errors="surrogateescape") for x in raw]
