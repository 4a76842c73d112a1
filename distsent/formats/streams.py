"""Text files of any compression and encoding, as lines."""

from __future__ import annotations

from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any

from distsent.formats.compression import Source, source_of
from distsent.formats.encodings import Encoding, decide
from distsent.formats.options import FileOptions


class TextStream(TextIOWrapper):
    """The text of a file without its mark, read once and forward; `again()` starts over."""

    def __init__(self, source: Source, how: Encoding, errors: str, newline: str | None) -> None:
        file, self._stored = source.open()
        file.read(how.mark)
        super().__init__(file, how.codec, errors, newline)
        self.source, self._how = source, how
        self.compression, self.notes = source.compression, how.notes
        self.lines, self.line_end = how.lines, how.line_end
        self.stray_returns = how.stray_returns
        self._size = max(1, source.path.stat().st_size)

    def again(self, newline: str | None = None) -> TextStream:
        """Another stream of the same file, from its beginning."""
        return TextStream(self.source, self._how, self.errors or "strict", newline)

    def share(self) -> float:
        """The share of the file that was read."""
        return 1.0 if self._stored.closed else min(1.0, self._stored.tell() / self._size)

    @property
    def options(self) -> dict[str, Any]:
        """The keys of [data] that say how it is read."""
        lossy = {} if self.errors == "strict" else {"encoding_errors": self.errors}
        return {"encoding": self._how.name, **lossy, "compression": self.compression}

    def close(self) -> None:
        super().close()
        self._stored.close()


def open_text(
    path: Path, name: str, options: FileOptions | None = None, newline: str | None = None
) -> TextStream:
    """The text of a file that error messages call `name`, and its encoding and compression.

    All of the file is read once, so that what is damaged or in doubt is a UserError here. `newline`
    as for open(): "" keeps all line ends as they are. A mark at the beginning is not text.
    """
    options = options or FileOptions()
    source = source_of(path, name, options.compression)
    how = decide(source, options.encoding, options.encoding_errors)
    return TextStream(source, how, options.encoding_errors, newline)


def head_of(source: Source, size: int = 1 << 16) -> bytes:
    """The first bytes of a file, decompressed."""
    with source.opened() as file:
        return read_fully(file, size)


def read_fully(file: IO[bytes], size: int) -> bytes:
    """At most `size` bytes: a decompressing file may give fewer at once."""
    out = b""
    while len(out) < size and (more := file.read(size - len(out))):
        out += more
    return out
