"""Texts to label, from a folder: its files are read one after the other."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from distsent.data.files import Reading, RowSource, TableFile
from distsent.data.layouts.class_files import ClassFolders, is_of_texts
from distsent.data.layouts.find_files import find_files
from distsent.data.rows import FILE
from distsent.data.texts import Text, TextFile, bare_text, without_missing
from distsent.errors import UserError
from distsent.formats.read_as import ReadAs
from distsent.job.schema import DataSection

BATCH = 1000  # texts in memory at once


class TextFolder:
    """The texts of a folder with one split, or with a file per text. Raises UserError.

    Its interface is that of TextFile; each text names its file.
    """

    def __init__(self, path: Path, data: DataSection, recorded: ReadAs | None = None) -> None:
        self._path, self._data, self._recorded = path, data, recorded
        data = replace(data, task="single_label", label_columns=None)  # labels are not read
        reading = Reading.of(data, recorded)
        self._notes: tuple[str, ...] = ()  # about files that are not read
        if is_of_texts(path):
            self._sources: list[RowSource] = [ClassFolders({"": path}, ".", reading)]
        else:
            files = find_files(data, path, reading)
            if len(files.splits) > 1:
                found = ", ".join(files.splits)
                raise UserError(f"{path}: has the splits {found}; name a file or folder in it")
            self._sources, self._notes = files.sources(files.splits[0]), files.notes
        self.na_values = data.na_values
        self.has_pairs = data.has_pairs
        self._opened = [self._open(source) for source in self._sources]
        self._read = 0

    @property
    def read_as(self) -> ReadAs:
        """How the first file is read, with what is to be known of the folder and all files."""
        first, notes = self._opened[0], [*self._notes]
        for source, opened in zip(self._sources, self._opened, strict=True):
            if opened:
                notes += (f"{source.name}: {note}" for note in opened.read_as.notes)
            elif isinstance(source, ClassFolders):
                notes += source.notes
        return replace(first.read_as if first else ReadAs("a file per text"), notes=(*notes,))

    def done(self) -> float:
        """The share of the files that was read."""
        return self._read / len(self._sources)

    def __iter__(self) -> Iterator[Text]:
        for source, opened in zip(self._sources, self._opened, strict=True):
            if isinstance(opened, TextFile):
                yield from (text._replace(file=source.name) for text in opened)
            else:
                for text in self._texts(source):
                    yield without_missing(text, self.na_values or ())
            self._read += 1

    def _open(self, source: RowSource) -> TextFile | None:
        if not isinstance(source, TableFile):
            return None
        # Where each class has a file, its lines are texts
        data = self._data if source.label is None else replace(self._data, format="lines")
        return TextFile(source.path, data, self._recorded)

    def _texts(self, source: RowSource) -> Iterator[Text]:
        table, column = source.part().table, source.reading.columns.text
        row = 0
        for first in range(0, table.num_rows, BATCH):
            some = table.slice(first, BATCH)
            files = some.column(FILE if FILE in some.column_names else column).to_pylist()
            for text, file in zip(some.column(column).to_pylist(), files, strict=True):
                row += 1
                name = file if FILE in some.column_names else source.name
                yield bare_text(row, text)._replace(file=name)
