"""A file that is to be read, and what is known of it before it is opened."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs


@dataclass(frozen=True)
class Where:
    """Rows that have one of some values in a column."""

    column: str
    values: frozenset[str]


@dataclass(frozen=True)
class File:
    """A file. Error messages call it `name`."""

    path: Path
    name: str
    options: FileOptions = field(default_factory=FileOptions)
    strict: bool = False  # a training reads: a bad row is an error, and a row needs columns
    # How the files of the training were read; it decides what this file leaves open
    recorded: ReadAs | None = None
    part: str = ""  # one of the splits that a JSON file holds, by its name in parts_of()
    where: Where | None = None  # the rows that are read; row numbers count all
    lists: bool = False  # a text may have several labels: those of fastText are a list
