"""Texts to label, from a file of any size. A bad row has an error in place of its text."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from distsent.data.column_choice import column_errors
from distsent.data.files import sample_columns
from distsent.errors import UserError
from distsent.formats.open import open_file
from distsent.formats.records import printable, text_error


class Text(NamedTuple):
    """A row, numbered from 1: its text, or an `error`, beside what can be shown of the text."""

    row: int
    text: str
    pair: str | None = None
    error: str = ""


class TextFile:
    """The texts of a file, in its order. Raises UserError for a file that cannot be read."""

    def __init__(self, path: str | Path, column: str = "text", pair: str | None = None) -> None:
        file, suffix, error = Path(path), Path(path).suffix.lower(), ""
        if file.is_dir():
            error = "a folder, not a file"
        elif not file.is_file():
            error = "no such file"
        elif suffix == ".txt" and pair:
            error = "one text per line and no columns; pairs need csv, jsonl or parquet"
        if error:
            raise UserError(f"{path}: {error}")
        self._columns = [column, *([pair] if pair else [])]
        self._reader = open_file(file, str(path))
        self.done = self._reader.done  # the share of the file that was read
        # Unknown columns are no error: a file of bare texts, or one without rows
        if self._reader.columns is not None:
            wanted = dict(zip(("--text-column", "--pair-column"), self._columns, strict=False))
            if any(self._reader.columns.count(name) != 1 for name in self._columns):
                lines, fix = column_errors(str(path), wanted, sample_columns(file, str(path)))
                raise UserError(*lines, fix=fix if len(fix) == len(lines) else None)

    def __iter__(self) -> Iterator[Text]:
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


def _error(value: object) -> str:
    """Why a value cannot be labeled; empty if it can."""
    empty = value is None or (isinstance(value, str) and not value.strip())
    return "no text" if empty else text_error(value)
