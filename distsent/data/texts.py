"""Texts to label, from a file of any size. A bad row has an error in place of its text."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from distsent.data.column_checks import find_column_errors, find_position_errors
from distsent.data.rows import Columns
from distsent.data.sample import sample_columns
from distsent.errors import UserError
from distsent.formats.file import File
from distsent.formats.open import open_file
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from distsent.formats.records import is_blank, printable, text_error
from distsent.job.schema import DataSection
from distsent.storage import exists


class Text(NamedTuple):
    """A row, numbered from 1: its text, or an `error`, beside what can be shown of the text."""

    row: int
    text: str
    pair: str | None = None
    error: str = ""
    file: str = ""  # where texts come from several


class TextFile:
    """The texts of a file, in its order. Raises UserError for a file that cannot be read.

    `data`: the keys that describe the file; its labels are not read. `recorded`: how the files of
    the training run were read, which decides what this file leaves open.
    """

    def __init__(
        self, path: str | Path, data: DataSection | None = None, recorded: ReadAs | None = None
    ) -> None:
        file, data = Path(path), data or DataSection()
        if not exists(file):
            raise UserError(f"{path}: no such file")
        # Its labels are not read: as lists, any number of them is right
        opened = File(file, str(path), FileOptions.of(data), recorded=recorded, lists=True)
        self._reader = open_file(opened)
        self.read_as = self._reader.read_as
        self.done = self._reader.done  # the share of the file that was read
        self.has_pairs = data.has_pairs
        self._columns = _find_columns(self._reader.columns, file, data)
        self.na_values = data.na_values

    def __iter__(self) -> Iterator[Text]:
        for text in self._texts():
            yield without_missing(text, self.na_values or ())

    def _texts(self) -> Iterator[Text]:
        for row, values, error in self._reader.records(self._columns):
            if isinstance(values, str):
                yield bare_text(row, values, error)
            elif error:
                yield Text(row, "", None, error)
            else:
                text, *pair = (values.get(column) for column in self._columns)
                error = next(filter(None, map(_error, (text, *pair))), "")
                shown = printable(text) if isinstance(text, str) else ""
                yield Text(row, shown, pair[0] if pair and not error else None, error)


def bare_text(row: int, text: str, error: str = "") -> Text:
    """A text without columns. Bytes that are not UTF-8 are lone surrogates in it."""
    return Text(row, printable(text), None, error or _error(text))


def without_missing(text: Text, missing: tuple[str, ...]) -> Text:
    """The text; with an error if it, or its pair, is one of those that mean that there is none."""
    if not text.error and {text.text.strip(), (text.pair or "").strip()} & {*missing}:
        return text._replace(pair=None, error="no text")
    return text


def _find_columns(found: Sequence[str] | None, file: Path, data: DataSection) -> list[str | int]:
    """What the file calls the columns of texts. Raises UserError for one that it lacks."""
    columns = replace(Columns.of(data), label="")
    if found is None:  # bare texts, or no rows
        if columns.pair and data.format in ("auto", "lines") and file.stat().st_size:
            raise UserError(f"{file}: one text per line; pairs need a file with columns")
        return [*columns.texts]
    path = str(file)
    lines, fix = find_column_errors(
        [(path, [*found])],
        columns,
        lambda: [(path, sample_columns(File(file, path, FileOptions.of(data))))],
    )
    lines += find_position_errors([(path, [*found])], columns)
    if lines:
        raise UserError(*lines, fix=fix if len(fix) == len(lines) else None)
    keys = columns.keys_in(found)
    return [keys[column] for column in columns.texts]


def _error(value: object) -> str:
    """Why a value cannot be labeled; empty if it can."""
    empty = value is None or (isinstance(value, str) and is_blank(value))
    return "no text" if empty else text_error(value)
