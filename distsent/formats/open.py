"""The reader of a file: by data.format, by its suffix, or by what it contains."""

from distsent.formats.columnar import ArrowReader, ParquetReader
from distsent.formats.compression import Source, source_of
from distsent.formats.content import binary_format, is_json, text_format
from distsent.formats.delimited.reader import DelimitedReader
from distsent.formats.file import File
from distsent.formats.json.reader import JsonReader
from distsent.formats.lines import FastTextReader, LabelTextReader, LinesReader
from distsent.formats.options import check_options, describes_csv
from distsent.formats.reader import Reader
from distsent.formats.records import readable
from distsent.formats.refused import refuse
from distsent.formats.refused_texts import refuse_text
from distsent.formats.spreadsheet import ExcelReader
from distsent.formats.streams import head_of

# A new format is a Reader here and a suffix below
READERS: dict[str, type[Reader]] = {
    **{"csv": DelimitedReader, "lines": LinesReader, "label_text": LabelTextReader},
    **{"fasttext": FastTextReader, "json": JsonReader, "excel": ExcelReader},
    **{"parquet": ParquetReader, "arrow": ArrowReader},
}
SUFFIXES = {
    **{".csv": "csv", ".tsv": "csv", ".tab": "csv", ".parquet": "parquet", ".pq": "parquet"},
    **{".arrow": "arrow", ".feather": "arrow", ".arrows": "arrow"},
    **{".xlsx": "excel", ".xls": "excel", ".ods": "excel", ".xlsm": "excel", ".xlsb": "excel"},
    **{".json": "json", ".jsonl": "json", ".ndjson": "json", ".jl": "json"},
}
TABLES = tuple(SUFFIXES)  # formats with columns; a .txt may be one


def open_file(file: File) -> Reader:
    """The reader of a file."""
    check_options(file.options, file.name)
    with readable(file.name):
        source = source_of(file.path, file.name, file.options.compression)
        kind = _format(source, file)
    return (JsonReader if file.part else READERS[kind])(file)


def _format(source: Source, file: File) -> str:
    """The name of a format. Bytes that only one format has decide before the suffix does."""
    head = head_of(source)
    refuse(source, head)
    if file.options.format != "auto":
        return file.options.format
    if binary := binary_format(head):
        return binary
    named = SUFFIXES.get(source.suffix)
    if named in (None, "csv") and is_json(head.decode(errors="replace")):
        return "json"
    if named not in ("json", "parquet", "arrow"):
        refuse_text(source, head)
    if describes_csv(file.options):
        return "csv"
    if named == "excel":  # tables with tabs, or what else is a text but called .xls
        named = None
    return named or text_format(source, file)
