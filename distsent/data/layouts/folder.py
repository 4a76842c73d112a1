"""A folder in which a dataset is searched: its files by what their names say."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distsent.data.files import Reading, RowSource, TableFile
from distsent.data.layouts.parallel_files import ParallelFiles
from distsent.data.layouts.split_names import ABOUT, inside, suffix_of, words
from distsent.errors import UserError
from distsent.formats.compression import data_suffix
from distsent.formats.open import TABLES
from distsent.formats.records import first_few
from distsent.job.keys import to_toml_value
from distsent.storage import entries, exists, is_file, is_folder

ROWS = ("", ".txt", ".label", ".data", ".dat", ".all")  # suffixes of texts that may be rows


@dataclass(frozen=True)
class Folder:
    """A folder that is searched. Messages name its files as they lie in `base`."""

    path: Path
    base: Path
    root: Path  # what keys such as data.train are relative to
    reading: Reading
    notes: list[str] = field(default_factory=list)  # what the user should know
    taken: frozenset[Path] = frozenset()  # what the job has named itself
    unread: list[Path] = field(default_factory=list)  # tables that are not called like splits

    @classmethod
    def of(cls, path: Path, reading: Reading) -> Folder:
        """The folder that data.source names."""
        return cls(path, path, path, reading)

    def inner(self, path: Path, base: Path | None = None) -> Folder:
        """A folder inside."""
        return replace(self, path=path, base=base or self.base)

    def without(self, taken: Collection[Path]) -> Folder:
        """The folder as if these files and folders were not there."""
        return replace(self, taken=self.taken | {*taken})

    @property
    def files(self) -> list[Path]:
        return [path for path in self._entries() if is_file(path)]

    @property
    def folders(self) -> list[Path]:
        return [path for path in self._entries() if is_folder(path)]

    @property
    def tables(self) -> list[Path]:
        """Files whose names say that they have columns, but for forms of a competition."""
        tables = [path for path in self.files if data_suffix(path) in TABLES]
        forms = [path for path in tables if "submission" in words(path.name)]
        self.unread.extend(forms)
        return [path for path in tables if path not in forms]

    @property
    def texts(self) -> list[Path]:
        """Other files. A .txt may be a table, too, or a text about the others."""
        return [path for path in self.files if data_suffix(path) not in TABLES]

    @property
    def plain(self) -> list[Path]:
        """Files whose names say nothing of a format, but for texts about the others."""
        return [path for path in self.maybe_rows if not suffix_of(path)]

    @property
    def maybe_rows(self) -> list[Path]:
        """Texts that may be rows, by their names."""
        texts = [path for path in self.texts if ABOUT.isdisjoint(words(path.name))]
        return [path for path in texts if suffix_of(path) in ROWS or path.suffix[1:].isdigit()]

    def _entries(self) -> list[Path]:
        inside = [path for path in entries(self.path) if path.name[0] not in "._"]
        inside = [path for path in inside if path not in self.taken]
        for path in inside:
            if data_suffix(path) in TABLES and path.is_symlink() and not exists(path):
                to = os.readlink(path)
                raise UserError(f"{self.name(path)}: a link to {to}, which does not exist")
        return inside

    def name(self, path: Path) -> str:
        """What messages call a file."""
        inside = self.base in (path, *path.parents)
        return str(path.relative_to(self.base)) if inside else str(path)

    def key(self, *paths: Path) -> str:
        """A value of data.train that names one of the files, as TOML."""
        inside = [path.relative_to(self.root) for path in paths if self.root in path.parents]
        about = [path for path in inside if ABOUT.isdisjoint(words(path.name))]
        return to_toml_value(str([*about, *inside, Path("FILE")][0]))

    def table(self, path: Path, label: str | None = None) -> RowSource:
        return TableFile(path, self.name(path), self.reading, label)

    def parallel(self, texts: Path, labels: Path) -> RowSource:
        names = self.name(texts), self.name(labels)
        return ParallelFiles((texts, labels), names, self.reading)

    def inside(self, path: Path) -> str:
        """The path as a value of data.train."""
        return inside(path, self.root)

    def error(self, *problems: str, ways: Sequence[Mapping[str, Any]] = ()) -> UserError:
        """`ways`: keys from which the user may choose."""
        lines = (f"data.source = {str(self.path)!r}: {line}" for line in problems)
        return UserError(*lines, fix=ways[0] if ways else None, others=ways[1:])

    def shown(self) -> str:
        return first_few([path.name for path in self._entries()]) or "nothing"
