"""What is asked of the detection of a delimited file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any

from distsent.formats.compression import data_suffix
from distsent.formats.delimited.evidence import Evidence
from distsent.formats.file import File
from distsent.formats.options import FileOptions
from distsent.formats.streams import TextStream

TABBED = (".tsv", ".tab")
HEAD = 100  # lines that show how lines end
_EXCEL = re.compile('"?sep=(.)"?[\r\n]*')  # a first line that only Excel reads: the delimiter


@dataclass(frozen=True)
class Asked:
    """A file, and what the keys say of it."""

    name: str
    text: TextStream
    options: FileOptions
    default: str  # the delimiter that the file's name promises
    recorded: Mapping[str, Any]  # the keys that read the files of the run: they decide in doubt
    one_column: bool = True  # is a table, too: the name of the file or a key says that it is one
    skipped: int = 0  # first lines that are not looked at

    @classmethod
    def of(cls, file: File, text: TextStream) -> Asked:
        """That of a file, whose text this is."""
        suffix = data_suffix(file.path)
        default = "\t" if suffix in TABBED else ","
        named = suffix in (*TABBED, ".csv") or file.options.format == "csv"
        recorded = file.recorded
        used = recorded.options if recorded and recorded.format == "csv" else {}
        asked = cls(file.name, text, file.options, default, used, named)
        said = _EXCEL.fullmatch(next(_lines(text, ""), ""))
        if said and file.options.delimiter == "auto":
            return replace(asked, options=replace(file.options, delimiter=said[1]))
        return asked

    @property
    def has_header(self) -> bool:
        """The first row is a header for sure. Beside given names there may be one as well."""
        options = self.options
        return options.header is True or not (options.names or options.header is False)

    @property
    def ends(self) -> list[str]:
        """What the lines may end with, the likeliest first; "\\n" includes "\\r\\n"."""
        lines = [*islice(_lines(self.text, ""), HEAD)]
        ends = ["\r" if line.endswith("\r") else "\n" for line in lines] or ["\n"]
        both = any(line.endswith("\r\n") for line in lines)
        return [*dict.fromkeys(ends), *(["\r\n"] if both else [])]

    def fits(self, found: Evidence) -> bool:
        """Whether given names are as many as the columns."""
        return not self.options.names or len(self.options.names) == found.width

    def lines(self, end: str) -> Iterator[str]:
        """The lines from the beginning. Those that are skipped are blank."""
        lines = without_excel(_lines(self.text, end))
        return chain((end for _ in islice(lines, self.skipped)), lines)


def _lines(text: TextStream, end: str) -> Iterator[str]:
    with text.again(end) as again:
        yield from again


def without_excel(lines: Iterator[str]) -> Iterator[str]:
    """The lines; a first one for Excel is blank, as blank ones are counted but not read."""
    first = [*islice(lines, 1)]
    return chain(("\n" if _EXCEL.fullmatch(line) else line for line in first), lines)
