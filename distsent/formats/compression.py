"""The bytes of a file: decompressed, where its first bytes say how it was compressed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, RawIOBase
from pathlib import Path, PurePosixPath
from shlex import quote
from tempfile import TemporaryFile
from typing import IO, Any, cast

import pyarrow as pa

from distsent.errors import UserError
from distsent.formats.records import first_few, readable
from distsent.storage import exists, is_file, is_folder

BLOCK = 1 << 20  # bytes read at once
SUFFIXES = {
    **{".gz": "gzip", ".bz2": "bz2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"},
    **{".gzip": "gzip", ".zstd": "zstd"},
}
_MAGIC = {
    **{b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"},
    **{b"PK\3\4": "zip", b"PK\5\6": "zip"},
}
_CONTROL = re.compile(b"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_BZ2_BLOCKS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # the first may be the last, empty one
# Of containers that are formats of their own, not compressed files: what their members show
_DOCUMENTS = ("[Content_Types].xml", "mimetype")
_ARRAYS = (".npy", "data.pkl")


@dataclass(frozen=True)
class Source:
    """A file and how it is compressed ("none": not at all)."""

    path: Path
    name: str
    compression: str
    inner: str  # the name of the file without the suffix of its compression
    member: str = ""  # in a zip

    @property
    def suffix(self) -> str:
        """The suffix that names the format."""
        return PurePosixPath(self.inner).suffix.lower()

    def open(self) -> tuple[IO[bytes], IO[bytes]]:
        """(decompressed, as stored), both at the beginning."""
        stored = open(self.path, "rb")  # noqa: SIM115  (the reader closes it)
        try:
            return _OPEN[self.compression](stored, self), stored
        except BaseException:
            stored.close()
            raise

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """The decompressed bytes. Damage becomes one line."""
        with readable(self.name):
            file, stored = self.open()
            with stored, file:
                yield file

    def blocks(self, skip: int = 0) -> Iterator[bytes]:
        """The decompressed bytes after the first `skip`; an empty block ends them."""
        with self.opened() as file:
            file.read(skip)
            while block := file.read(BLOCK):
                yield block
        yield b""


def source_of(path: Path, name: str, compression: str = "auto") -> Source:
    """The file at `path`. Raises UserError unless it is compressed as `compression` says."""
    with readable(name):
        return _source_of(path, name, compression)


def _source_of(path: Path, name: str, compression: str) -> Source:
    if exists(path) and not is_file(path):
        what = "a folder" if is_folder(path) else "no regular file, and all of it is read twice"
        raise UserError(f"{name}: {what}; name a file")
    with open(path, "rb") as file:
        head = file.read(10)
    found = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "none")
    if found == "bz2" and not any(block.startswith(head[4:]) for block in _BZ2_BLOCKS):
        found = "none"  # a text that begins with BZh
    if found == "zip" and compression == "auto" and _is_document(path):
        found = "none"
    if compression not in ("auto", "none", found):
        fix = 'data.compression = "auto" decides by content'
        raise UserError(f"{name}: data.compression = {compression!r}, but it is not that; {fix}")
    kind = found if compression == "auto" else compression
    # A download may be decompressed already and keep its name
    inner = path.stem if path.suffix.lower() in SUFFIXES else path.name
    if kind != "zip":
        return Source(path, name, kind, inner)
    member = _only_member(path, name)
    return Source(path, name, kind, PurePosixPath(member).name, member)


def seekable(source: Source) -> IO[bytes]:
    """The decompressed bytes as a file with random access: a temporary one if it is compressed."""
    if source.compression == "none":
        return open(source.path, "rb")
    file = TemporaryFile()  # noqa: SIM115  (the caller closes it)
    with source.opened() as stream:
        shutil.copyfileobj(stream, file, BLOCK)
    file.seek(0)
    return file


def is_text(head: bytes) -> bool:
    """Whether the first bytes of a file have no control characters but those of texts."""
    return not _CONTROL.search(head)


def data_suffix(path: Path) -> str:
    """The suffix that names the format: ".csv" of "train.csv.gz"."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in SUFFIXES else suffix


def _is_document(path: Path) -> bool:
    """Whether a zip is a spreadsheet, a document or arrays: formats of their own."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False
    return any(name in _DOCUMENTS or name.endswith(_ARRAYS) for name in names)


def _only_member(path: Path, name: str) -> str:
    """The only file of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not _is_extra(member)]
    names = [member.filename for member in members]
    if len(members) != 1:
        found = f"{len(names)} files ({first_few(names)})" if names else "no file"
        fix = (
            f"unpack it (unzip -d {quote(str(path.with_suffix('')))} {quote(str(path))}) and name "
            "that folder or a file of it"
            if names
            else "it has no rows"
        )
        raise UserError(f"{name}: a zip with {found}; one is read; {fix}")
    if members[0].flag_bits & 1:
        raise UserError(f"{name}: an encrypted zip; unpack it (unzip {quote(str(path))})")
    if names[0].startswith(("/", "\\")) or ".." in PurePosixPath(names[0]).parts:
        raise UserError(f"{name}: a zip whose file lies outside of it ({names[0][:60]!r})")
    return names[0]


def _is_extra(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a folder, or what macOS and Windows add."""
    parts = PurePosixPath(member.filename).parts
    added = {"__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini"}
    return member.is_dir() or bool(added.intersection(parts))


class _Zstd(RawIOBase):
    """A zstd file as a raw stream of Python's, which io.BufferedReader asks for."""

    def __init__(self, stored: IO[bytes]) -> None:
        self._stream = pa.CompressedInputStream(pa.PythonFile(stored, "r"), "zstd")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


_OPEN: dict[str, Callable[[IO[bytes], Source], IO[bytes]]] = {
    "none": lambda stored, _: stored,
    "gzip": lambda stored, _: cast(IO[bytes], gzip.GzipFile(fileobj=stored)),
    "bz2": lambda stored, _: cast(IO[bytes], bz2.BZ2File(stored)),
    "xz": lambda stored, _: cast(IO[bytes], lzma.LZMAFile(stored)),  # noqa: SIM115
    "zstd": lambda stored, _: cast(IO[bytes], BufferedReader(_Zstd(stored), BLOCK)),
    "zip": lambda stored, source: zipfile.ZipFile(stored).open(source.member),  # noqa: SIM115
}
