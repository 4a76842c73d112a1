"""Commands of a shell that convert a file, for messages to show."""

import re
from pathlib import Path
from shlex import quote

from distsent.formats.compression import SUFFIXES, Source

_UNPACK = {
    **{"gzip": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zstd": "zstd -dc"},
    "zip": "unzip -p",
}


def new_file(source: Source, suffix: str) -> str:
    """A file beside this one, which no command may overwrite."""
    path = source.path
    inner = path.stem if path.suffix.lower() in SUFFIXES else path.name
    return str(path.with_name(f"{Path(inner).stem}.new{suffix}"))


def filtered(source: Source, command: str, suffix: str = "") -> str:
    """Sends the text of a file through a command into a new file beside it."""
    file, new = quote(str(source.path)), quote(new_file(source, suffix or source.suffix))
    if source.compression == "none":
        return f"{command} < {file} > {new}"
    return f"{_UNPACK[source.compression]} {file} | {command} > {new}"


def in_pandas(source: Source, read: str) -> str:
    """Writes a new csv of what a function of pandas reads. `read`: its call, {} for the path."""
    call, new = read.format(repr(str(source.path))), new_file(source, ".csv")
    return python(f"import pandas; pandas.{call}.to_csv({new!r}, index=False)")


def python(code: str) -> str:
    """Runs a line of Python."""
    return f"python -c {quote(code)}" if re.search(r'["$`\\!]', code) else f'python -c "{code}"'


def rewritten(source: Source, rows: tuple[str, str], each: str) -> str:
    """Writes JSON lines of a file: the values y of `each`, in Python, of each of its rows x.

    `rows`: statements, and then the rows of standard input, in Python.
    """
    setup, every = rows
    loop = f"[print(json.dumps(y,default=str))for x in {every} for y in {each}]"
    return filtered(source, python(f"import json,sys;{setup}{loop}"), ".jsonl")


def from_row(source: Source, row: int) -> str:
    """Leaves out the rows above one (from 1, with a header and blank lines)."""
    if source.suffix not in (".xlsx", ".xls", ".ods", ".xlsm", ".xlsb"):
        return filtered(source, f"tail -n +{row}")
    return in_pandas(source, f"read_excel({{}}, header={row - 1}, dtype=str, engine='calamine')")
