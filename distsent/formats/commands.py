"""Commands of a shell that convert a file, for messages to show."""

import re
from shlex import quote

from distsent.formats.compression import Source

_UNPACK = {
    **{"gzip": "gzip -dc", "bz2": "bzip2 -dc", "xz": "xz -dc", "zstd": "zstd -dc"},
    "zip": "unzip -p",
}


def names(source: Source) -> tuple[str, str]:
    """(path, path without any suffix)."""
    return str(source.path), str(source.path.with_name(source.path.name.split(".")[0]))


def filtered(source: Source, command: str, suffix: str = "") -> str:
    """Sends the text of a file through a command into a new file beside it."""
    file, stem = names(source)
    new = quote(f"{stem}.new{suffix or source.suffix}")
    if source.compression == "none":
        return f"{command} < {quote(file)} > {new}"
    return f"{_UNPACK[source.compression]} {quote(file)} | {command} > {new}"


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
    file, stem = names(source)
    read = f"read_excel('{file}', header={row - 1}, dtype=str, engine='calamine')"
    return f"python -c \"import pandas; pandas.{read}.to_csv('{stem}.csv', index=False)\""
