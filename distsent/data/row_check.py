"""From the values of a row to texts and a label, or an error that names file and row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distsent.data.convertible import (
    is_list_of_texts,
    is_number,
    keys_fault,
    text_fault,
)
from distsent.data.labels.values import label_error, list_error, normalize_label, written_list
from distsent.data.row_cache import Row
from distsent.data.rows import Columns
from distsent.errors import UserError
from distsent.formats.column_choice import label_score
from distsent.formats.reader import Reader
from distsent.formats.records import shorten, text_error
from distsent.job.keys import to_toml_value

MOST_WAYS = 4  # columns inside of a label that an error shows
MOST_KNOWN = 1000  # labels whose words are kept: more are not classes


class RowCheck:
    """Checks the rows of one file. `names`: what it calls the columns of texts and labels.

    Values that are not text are None if `drop`, else errors. `reader`: that of the file, which
    knows how its rows can be converted.
    """

    def __init__(
        self,
        file: str,
        names: Sequence[str],
        columns: Columns,
        drop: bool,
        reader: Reader | None = None,
    ) -> None:
        self._file, self._names, self._drop = file, names, drop
        self._delimiter, self._number = columns.delimiter, columns.task == "regression"
        self._label = self._labels if columns.has_lists else self._word
        self._words: dict[str, str | None] = {}  # of labels: few values occur in many rows
        self._reader = reader

    def __call__(self, row: int, texts: list[Any], labels: list[Any]) -> Row:
        for place, text in enumerate(texts):
            if type(text) is str and text.isascii():
                continue
            if text is not None and (error := text_error(text)):
                if self._reader and (fault := self._list_of_texts(text, place, labels)):
                    raise self._error(row, place, fault)
                self._refuse(row, place, error)
                texts[place] = None
        for place, label in enumerate(labels, len(texts)):
            if type(label) is str and label in self._words:
                texts.append(self._words[label])
            else:
                texts.append(self._label(row, place, label))
        return tuple(texts)

    def _list_of_texts(self, text: Any, place: int, labels: Sequence[Any]) -> str:
        reader, names = self._reader, self._names
        if not reader:
            return ""
        if labels and (labels[0] is None or is_list_of_texts(labels[0])):
            return keys_fault(text, reader.rewritten)
        label = (
            reader.in_row(names[-1])
            if len(labels) == 1 and names[-1] in (reader.columns or ())
            else ""
        )
        return text_fault(text, reader.in_row(names[place]), label, reader.rewritten)

    def _word(self, row: int, place: int, label: Any) -> str | None:
        if error := label_error(label, self._number):
            raise self._label_error(row, place, label, error)
        word = self._normal(row, place, label)
        if type(label) is str and len(self._words) < MOST_KNOWN:
            self._words[label] = word
        return word

    def _label_error(self, row: int, place: int, label: Any, error: str) -> UserError:
        """The error of an object or a list."""
        name = self._names[place]
        columns = self._reader.columns if self._reader else None
        inner = [column for column in columns or () if column.startswith(f"{name}.")]
        inner.sort(key=lambda column: -label_score(column))
        if isinstance(label, dict) and not inner and self._reader and self._reader.format != "json":
            command = self._reader.rewritten("[x]")
            way = f"; {command} writes objects whose columns are read" if command else ""
            return self._error(row, place, f"{shorten(label)} is an object: not read{way}")
        if isinstance(label, dict) and len(label) > 1 and all(map(is_number, label.values())):
            shown = to_toml_value([f"{name}.{key}" for key in label])
            what = "scores, of which some are neither 0 nor 1"
            fix = f'data.task = "regression" and data.label_columns = {shown} learn them'
            return self._error(row, place, f"{shorten(label)} holds {what}; {fix}")
        if isinstance(label, list) and len(label) != 1 and not self._number:
            return self._error(row, place, error, {"data.task": "multi_label"})
        if isinstance(label, list | dict) and label and inner:
            error = f'{shorten(label)} holds a value; data.label_column = "{inner[0]}" reads it'
            others = [{"data.label_column": column} for column in inner[1:MOST_WAYS]]
            return self._error(row, place, error, {"data.label_column": inner[0]}, others)
        return self._error(row, place, error)

    def _labels(self, row: int, place: int, labels: Any) -> list[str | None] | str | None:
        """A list of labels, or the text that names them."""
        if isinstance(labels, str) and not self._delimiter:
            found = written_list(labels)
            labels = None if not labels.strip() else labels if found is None else found
        if error := list_error(labels, self._delimiter):
            raise self._error(row, place, error)
        if not isinstance(labels, list):
            return labels and self._normal(row, place, labels)
        return [self._normal(row, place, label) for label in labels]

    def _error(
        self,
        row: int,
        place: int,
        error: str,
        fix: Mapping[str, Any] | None = None,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> UserError:
        where = f"{self._file}, row {row}: column {self._names[place]!r}"
        return UserError(f"{where}: {error}", fix=fix, others=others)

    def _normal(self, row: int, place: int, label: Any) -> str | None:
        word = normalize_label(label)
        if word is not None and (error := text_error(word)):
            self._refuse(row, place, error)
            return None
        return word

    def _refuse(self, row: int, place: int, error: str) -> None:
        if not self._drop:
            raise self._error(row, place, error)
