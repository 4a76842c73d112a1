"""From the values of a row to texts and a label, or an error that names file and row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsent.data.labels.values import label_error, list_error, normalize_label
from distsent.data.row_cache import Row
from distsent.data.rows import Columns
from distsent.errors import UserError
from distsent.formats.records import shorten, text_error

MOST_KNOWN = 1000  # labels whose words are kept: more are not classes


class RowCheck:
    """Checks the rows of one file. `names`: what it calls the columns of texts and labels.

    Values that are not text are None if `drop`, else errors.
    """

    def __init__(self, file: str, names: Sequence[str], columns: Columns, drop: bool) -> None:
        self._file, self._names, self._drop = file, names, drop
        self._delimiter, self._number = columns.delimiter, columns.task == "regression"
        self._label = self._labels if columns.has_lists else self._word
        self._words: dict[str, str | None] = {}  # of labels: few values occur in many rows

    def __call__(self, row: int, texts: list[Any], labels: list[Any]) -> Row:
        for place, text in enumerate(texts):
            if type(text) is str and text.isascii():
                continue
            if text is not None and (error := text_error(text)):
                self._refuse(row, place, error)
                texts[place] = None
        for place, label in enumerate(labels, len(texts)):
            if type(label) is str and label in self._words:
                texts.append(self._words[label])
            else:
                texts.append(self._label(row, place, label))
        return tuple(texts)

    def _word(self, row: int, place: int, label: Any) -> str | None:
        if error := label_error(label, self._number):
            where = f"{self._file}, row {row}: column {self._names[place]!r}"
            fix: dict[str, Any] = {}
            if isinstance(label, list) and len(label) != 1 and not self._number:
                fix = {"data.task": "multi_label"}
            if isinstance(label, list | dict) and len(label) == 1:
                first = (
                    f"{self._names[place]}.{0 if isinstance(label, list) else next(iter(label))}"
                )
                error = f'{shorten(label)} holds a value; data.label_column = "{first}" reads it'
                fix = {"data.label_column": first}
            raise UserError(f"{where}: {error}", fix=fix)
        word = self._normal(row, place, label)
        if type(label) is str and len(self._words) < MOST_KNOWN:
            self._words[label] = word
        return word

    def _labels(self, row: int, place: int, labels: Any) -> list[str | None] | str | None:
        """A list of labels, or the text that names them."""
        if error := list_error(labels, self._delimiter):
            raise UserError(f"{self._file}, row {row}: column {self._names[place]!r}: {error}")
        if not isinstance(labels, list):
            return labels and self._normal(row, place, labels)
        return [self._normal(row, place, label) for label in labels]

    def _normal(self, row: int, place: int, label: Any) -> str | None:
        word = normalize_label(label)
        if word is not None and (error := text_error(word)):
            self._refuse(row, place, error)
            return None
        return word

    def _refuse(self, row: int, place: int, error: str) -> None:
        if not self._drop:
            raise UserError(f"{self._file}, row {row}: column {self._names[place]!r}: {error}")
