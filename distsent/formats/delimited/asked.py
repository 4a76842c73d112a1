"""What is asked of the detection of a delimited file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distsent.formats.delimited.evidence import Evidence, Lines
from distsent.formats.options import FileOptions


@dataclass(frozen=True)
class Asked:
    """What the keys say of a file, beside its lines."""

    name: str
    lines: Lines  # between "\n"
    lines_by_cr: Lines  # between "\r"
    options: FileOptions
    default: str  # the delimiter that the file's name promises
    recorded: Mapping[str, Any]  # the keys that read the files of the run: they decide in doubt

    @property
    def has_header(self) -> bool:
        """The first row is a header for sure. Beside given names there may be one as well."""
        options = self.options
        return options.header is True or not (options.names or options.header is False)

    def fits(self, found: Evidence) -> bool:
        """Whether given names are as many as the columns."""
        return not self.options.names or len(self.options.names) == found.width
