"""Files of lines: a text, with or without its label."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from distsent.errors import UserError
from distsent.formats.reader import Reader
from distsent.formats.records import first_few

FASTTEXT = "__label__"
# A label is a word, of what fastText takes for one
_LABEL = re.compile(rf"(?<![^ \t\v\f\0]){FASTTEXT}([^ \t\v\f\0]+)")
_BLANK = re.compile("[ \t]+")
FEW = 10  # lines in which all first words may differ


class LinesReader(Reader):
    """lines: one text per line. Every line is a row, a blank one too."""

    format, newline = "lines", ""

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for line in self._lines():
            yield line, ""

    def _open(self) -> None:
        super()._open()
        self.rows = self._file.lines
        if many := self._file.stray_returns:
            self.notes.append(f"{many:,} carriage returns within lines, read as they are")

    def _lines(self) -> Iterator[str]:
        """The lines, without the line end of the file: a carriage return may be text."""
        end = self._file.line_end
        with self._file.again(end) as self._file:
            for line in self._file:
                yield line.removesuffix("\n").removesuffix("\r")


class LabelTextReader(LinesReader):
    """label_text: a label, a blank, and a text in each line. Blank lines are no rows."""

    format = "label_text"

    def _open(self) -> None:
        super()._open()
        names = self.options.names or ("label", "text")
        if len(names) != 2:
            said = f"data.names has {len(names)} names, but a line has two: of its label and text"
            raise UserError(f"{self.name}: {said}")
        labels = [self.split(line)[0] for line in self._rows()]
        self.rows, self.columns = len(labels), [*names] if labels else None
        self._check(labels)

    def _check(self, labels: Sequence[str | None]) -> None:
        """Raises UserError if the first words do not recur: they are texts, not labels."""
        if len(labels) > FEW and len(different := {*labels}) > len(labels) / 2:
            many = f"{len(different):,} different words begin {len(labels):,} lines"
            fix = 'no labels, as data.format = "label_text" expects; "lines" reads texts alone'
            shown = first_few(sorted(map(repr, different)))
            raise UserError(f"{self.name}: {many} ({shown}): {fix}")

    def _rows(self) -> Iterator[str]:
        return (line for line in self._lines() if line.strip())

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for line in self._rows():
            *pair, error = self.split(line)
            yield dict(zip(self.columns or (), pair, strict=True)), error

    @staticmethod
    def split(line: str) -> tuple[str | None, str | None, str]:
        """(label, text, error) of a line."""
        label, *text = _BLANK.split(line, maxsplit=1)
        return label, text[0] if text else None, ""


class FastTextReader(LabelTextReader):
    """fasttext: a word that begins with __label__ before or after the text of each line."""

    format = "fasttext"

    def _check(self, labels: Sequence[str | None]) -> None:
        """Any labels will do: they are marked."""

    @staticmethod
    def split(line: str) -> tuple[str | None, str | None, str]:
        """(label, text, error) of a line."""
        found = [*_LABEL.finditer(line)]
        if not found:
            return None, line, ""
        if len(found) > 1:
            words = first_few([match[0] for match in found])
            return None, line, f"{len(found)} labels ({words}); one label per text is read"
        before, after = line[: found[0].start()], line[found[0].end() :]
        if before.strip() and after.strip():
            return None, line, f"{found[0][0]!r} stands within the text, not before or after it"
        text = before.rstrip(" \t") if before.strip() else _BLANK.sub("", after, count=1)
        return found[0][1], text, ""
