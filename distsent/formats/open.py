"""The reader of a file. A new format is a Reader in READERS."""

from pathlib import Path

from distsent.formats.columnar import ParquetReader
from distsent.formats.delimited import CsvReader, TsvReader
from distsent.formats.json_rows import JsonLinesReader, JsonReader
from distsent.formats.lines import TextReader
from distsent.formats.options import FileOptions
from distsent.formats.records import Reader

READERS: dict[str, type[Reader]] = {
    **{".parquet": ParquetReader, ".csv": CsvReader, ".tsv": TsvReader},
    **{".jsonl": JsonLinesReader, ".json": JsonReader, ".txt": TextReader},
}
TABLES = tuple(suffix for suffix in READERS if suffix != ".txt")  # the formats with columns


def open_file(
    path: Path, name: str, options: FileOptions | None = None, strict: bool = False
) -> Reader:
    """The reader of a file. Error messages call the file `name`."""
    return READERS[path.suffix.lower()](path, name, strict)
