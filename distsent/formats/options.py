"""What a job says about its files. What it does not say is detected."""

from __future__ import annotations

from dataclasses import dataclass, fields

from distsent.errors import UserError
from distsent.formats.records import shorten
from distsent.job.schema import DataSection


@dataclass(frozen=True)
class FileOptions:
    """The keys of [data] that describe a file, under their names there. "auto": detected."""

    format: str = "auto"
    names: tuple[str, ...] | None = None
    header: str | bool = "auto"
    delimiter: str = "auto"
    quoting: str = "auto"
    escapechar: str | None = None
    encoding: str = "auto"
    encoding_errors: str = "strict"
    compression: str = "auto"
    sheet_name: str | None = None

    @classmethod
    def of(cls, data: DataSection) -> FileOptions:
        """Those of a job."""
        return cls(**{key.name: getattr(data, key.name) for key in fields(cls)})


def describes_csv(options: FileOptions) -> list[str]:
    """The given keys that only delimited text has."""
    given = {"delimiter": options.delimiter != "auto", "quoting": options.quoting != "auto"}
    return [
        key for key, there in (given | {"escapechar": bool(options.escapechar)}).items() if there
    ]


def check_options(options: FileOptions, name: str) -> None:
    """Raises UserError for keys that contradict each other."""
    quote = {"auto": '"', "csv": '"', "none": ""}.get(options.quoting, options.quoting)
    delimiter, escape = options.delimiter, options.escapechar
    of_csv = describes_csv(options)
    error = ""
    if of_csv and options.format not in ("auto", "csv"):
        error = f"data.{of_csv[0]} describes csv, and data.format is {options.format!r}"
    elif delimiter == quote:
        error = f"data.delimiter = {shorten(delimiter)} is the quote, too"
    elif escape == delimiter:
        error = f"data.delimiter and data.escapechar are both {shorten(delimiter)}"
    elif options.names and len(set(options.names)) < len(options.names):
        error = "data.names has a name twice"
    if error:
        raise UserError(f"{name}: {error}; leave one of them out")
