"""Files of lines: a text, with or without its label."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import Any

from distsent.errors import UserError
from distsent.formats.reader import Reader
from distsent.formats.records import counted, first_few, shorten
from distsent.formats.streams import TextStream

FASTTEXT = "__label__"
# A label is a word, of what fastText takes for one
LABELED = re.compile(rf"(?<![^ \t\v\f\0]){FASTTEXT}([^ \t\v\f\0]+)")
_BLANK = re.compile("[ \t]+")
FEW = 10  # lines in which all first words may differ
MANY = 1000  # labels that are kept, to know them again


def first_words(text: TextStream) -> tuple[str, set[str], int]:
    """(first line, words that lines begin with, number of lines), without blank lines."""
    first, words, lines = "", set[str](), 0
    with text.again(text.line_end) as again:
        for line in again:
            if line.strip():
                first, lines = first or line, lines + 1
                words.add(_BLANK.split(line.rstrip("\r\n"), maxsplit=1)[0])
    return first, words, lines


def labels_first(text: TextStream) -> bool:
    """Whether the first words of lines may be labels: they recur, and only there.

    The words that begin sentences stand in others, too.
    """
    _, words, lines = first_words(text)
    if len(words) > lines / 2:
        return False
    known = {word.lower() for word in words}
    with text.again(text.line_end) as again:
        rest = (_BLANK.split(line.lower())[1:] for line in again if line.strip())
        within = sum(not known.isdisjoint(words) for words in rest)
    return within < lines / 2


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
            self.notes.append(
                f"{counted(many, 'carriage return')} within lines, read as in the file"
            )

    def _lines(self) -> Iterator[str]:
        """The lines, without the line end of the file: a carriage return may be text."""
        end = self._file.line_end
        with self._file.again(end) as self._file:
            for line in self._file:
                yield line.removesuffix("\n").removesuffix("\r")


class LabelTextReader(LinesReader):
    """label_text: a label, a blank, and a text in each line. Blank lines are no rows.

    To predict, a line must begin with a label of the training: else it may be a text alone, and
    lose its first word.
    """

    format = "label_text"
    _known: frozenset[str] = frozenset()
    _colon = ""  # behind all labels

    def _open(self) -> None:
        super()._open()
        names = self.options.names or ("label", "text")
        if len(names) != 2:
            said = f"data.names has {len(names)} names, but a line has two: of its label and text"
            raise UserError(f"{self.name}: {said}")
        _, words, self.rows = first_words(self._file)
        self.columns = [*names] if self.rows else None
        if words and all(len(word) > 1 and word.endswith(":") for word in words):
            self._colon = ":"
            self.notes.append("a colon follows each label and is not a part of it")
        self._check(words)

    def _check(self, words: Collection[str]) -> None:
        """Raises UserError if first words do not recur: they are no labels, but of texts."""
        self.resolved["first_words"] = sorted(words) if len(words) <= MANY else None
        known = self.recorded.options.get("first_words") if self.recorded else None
        self._known = frozenset(() if self.strict else known or ())
        many = f"{len(words):,} different words begin {self.rows:,} lines"
        if self._known.isdisjoint(words) and self._known and words:
            many = "no line begins with a label of the training"
        elif (self.rows or 0) <= FEW or len(words) <= (self.rows or 0) / 2:
            return
        fix = 'data.format = "lines" reads each line as a text, without a label'
        shown = first_few(sorted(map(repr, words)))
        raise UserError(f"{self.name}: {many} ({shown}); {fix}")

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for line in self._lines():
            if line.strip():
                label, text, error = self.split(line)
                if self._known and label not in self._known:
                    error = f"begins with {shorten(label)}, which is no label of the training"
                label = label.removesuffix(self._colon) if isinstance(label, str) else label
                yield dict(zip(self.columns or (), (label, text), strict=True)), error

    def split(self, line: str) -> tuple[Any, str | None, str]:
        """(label, text, error) of a line."""
        label, *text = _BLANK.split(line, maxsplit=1)
        return label, text[0] if text else None, ""


class FastTextReader(LabelTextReader):
    """fasttext: a word that begins with __label__ before or after the text of each line.

    Or several such words, where a text may have several labels: a list of them.
    """

    format = "fasttext"

    def _check(self, words: Collection[str]) -> None:
        """Any labels will do: they are marked."""

    def split(self, line: str) -> tuple[Any, str | None, str]:
        """(label, text, error) of a line."""
        found, lists = [*LABELED.finditer(line)], self.file.lists
        if not found:
            return [] if lists else None, line, ""
        words = first_few([match[0] for match in found])
        if len(found) > 1 and not lists:
            several = 'one label per text is read; several need data.task = "multi_label"'
            return None, line, f"{len(found)} labels ({words}); {several}"
        before, after = line[: found[0].start()], line[found[-1].end() :]
        between = [line[a.end() : b.start()] for a, b in pairwise(found)]
        if (before.strip() and after.strip()) or any(part.strip() for part in between):
            stand = f"{found[0][0]!r} stands" if len(found) == 1 else f"labels ({words}) stand"
            return None, line, f"{stand} within the text, not before or after it"
        text = before.rstrip(" \t") if before.strip() else _BLANK.sub("", after, count=1)
        return [match[1] for match in found] if lists else found[0][1], text, ""
