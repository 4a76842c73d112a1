"""From the values of a row to texts and a label, or an error that names file and row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distsent.data.labels.values import label_error, normalize_label
from distsent.errors import UserError
from distsent.formats.records import shorten, text_error

Row = tuple[str | None, ...]  # texts and, last, the label
MOST_KNOWN = 1000  # labels whose words are kept: more are not classes


class RowCheck:
    """Checks the rows of one file. `names`: what it calls the columns of texts and the label.

    Values that are not text are None if `drop`, else errors.
    """

    def __init__(self, file: str, names: Sequence[str], drop: bool) -> None:
        self._file, self._names, self._drop = file, names, drop
        self._words: dict[str, str | None] = {}  # of labels: few values occur in many rows

    def __call__(self, row: int, texts: list[Any], label: Any) -> Row:
        for place, text in enumerate(texts):
            if type(text) is str and text.isascii():
                continue
            if text is not None and (error := text_error(text)):
                self._refuse(row, place, error)
                texts[place] = None
        if type(label) is str and label in self._words:
            return (*texts, self._words[label])
        return (*texts, self._word(row, label))

    def _word(self, row: int, label: Any) -> str | None:
        place = len(self._names) - 1
        if error := label_error(label):
            where, fix = f"{self._file}, row {row}: column {self._names[place]!r}", {}
            if isinstance(label, list | dict) and len(label) == 1:
                first = (
                    f"{self._names[place]}.{0 if isinstance(label, list) else next(iter(label))}"
                )
                error = f'{shorten(label)} holds a value; data.label_column = "{first}" reads it'
                fix = {"data.label_column": first}
            raise UserError(f"{where}: {error}", fix=fix)
        word = normalize_label(label)
        if word is not None and (error := text_error(word)):
            self._refuse(row, place, error)
            return None
        if type(label) is str and len(self._words) < MOST_KNOWN:
            self._words[label] = word
        return word

    def _refuse(self, row: int, place: int, error: str) -> None:
        if not self._drop:
            raise UserError(f"{self._file}, row {row}: column {self._names[place]!r}: {error}")
