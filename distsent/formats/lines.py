"""Files of lines: one text per line."""

from collections.abc import Iterator, Sequence
from typing import Any

from distsent.formats.reader import Reader
from distsent.formats.records import decode_error


class TextReader(Reader):
    """txt: one text per line."""

    format, newline = "lines", "\n"

    def _read(self, columns: Sequence[str]) -> Iterator[tuple[Any, str]]:
        for number, line in enumerate(self._file, 1):
            yield line.rstrip("\r\n"), decode_error(line, number)
