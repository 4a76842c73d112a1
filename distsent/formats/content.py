"""What a file is by its first bytes, or, for a text of any name, by all of its lines."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from itertools import islice

from distsent.errors import UserError
from distsent.formats.compression import Source
from distsent.formats.lines import FASTTEXT
from distsent.formats.options import FileOptions
from distsent.formats.read_as import ReadAs
from distsent.formats.records import shorten
from distsent.formats.streams import open_text

_BINARY = {
    **{b"PAR1": "parquet", b"ARROW1\0\0": "arrow", b"\xff\xff\xff\xff": "arrow"},
    **{b"PK\3\4": "excel", b"\xd0\xcf\x11\xe0": "excel"},
}


def binary_format(head: bytes) -> str:
    """The format of a file that is not a text; empty for a text."""
    return next((kind for magic, kind in _BINARY.items() if head.startswith(magic)), "")


def is_json(head: bytes) -> bool:
    """Whether a text begins with a JSON object, or with a list of them."""
    text = head.decode("utf-8-sig", "replace").lstrip()
    if text.startswith("[") and text[1:].lstrip().startswith("{"):
        return True
    try:
        return text.startswith("{") and isinstance(json.JSONDecoder().raw_decode(text)[0], dict)
    except ValueError:
        return False


def text_format(source: Source, options: FileOptions, strict: bool, recorded: ReadAs | None) -> str:
    """The format of a text whose name says nothing: it may be lines, a table, fastText, JSON."""
    name = source.name
    with open_text(source.path, name, options) as text:
        head = "".join(islice(text, 50))
        if is_json(head.encode("utf-8", "replace")):
            return "json"
        marked = [line.startswith(FASTTEXT) for line in text.again() if line.strip()]
        if sum(marked) > len(marked) / 2:
            return "fasttext"
        if recorded and recorded.format in ("csv", "lines", "label_text"):
            return recorded.format
        marks = "\t" if not strict and source.suffix == ".txt" else "\t;,|"
        table = next((mark for mark in marks if _is_table(text.again(newline=""), mark)), "")
    if strict and table:
        return "csv"
    if table:
        which = 'data.format = "csv" reads columns, "lines" reads each line as a text'
        raise UserError(f"{name}: each line has the same number of {table!r}; {which}")
    if not strict:
        return "lines"
    return _ask(name, head)


def _is_table(lines: Iterable[str], delimiter: str) -> bool:
    """Whether each record has the same number of fields, two or more."""
    counts = set()
    try:
        for fields in csv.reader(lines, delimiter=delimiter):
            if fields:
                counts.add(len(fields))
                if len(counts) > 1:
                    return False
    except csv.Error:
        return False
    return bool(counts) and counts != {1}


def _ask(name: str, head: str) -> str:
    first = next((line for line in head.splitlines() if line.strip()), "")
    if not first:
        raise UserError(f"{name}: the file is empty")
    word, _, rest = first.partition(" ")
    keys = 'data.format = "label_text" if each line is a label, a blank and a text'
    shown = f"({shorten(word)} and {shorten(rest)} in the first)"
    other = 'data.format = "csv" with data.delimiter if it is a table'
    raise UserError(f"{name}: a text without columns; {keys} {shown}; {other}")
