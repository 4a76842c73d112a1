"""The format of a file by its first bytes, or, for a text of any name, by all of its lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace

from distsent.errors import UserError
from distsent.formats.commands import filtered
from distsent.formats.compression import Source, is_text
from distsent.formats.delimited.asked import Asked
from distsent.formats.delimited.detect import detect
from distsent.formats.file import File
from distsent.formats.lines import LABELED, labels_first
from distsent.formats.read_as import ReadAs
from distsent.formats.records import shorten
from distsent.formats.streams import TextStream, open_text

_BINARY = {
    **{b"PAR1": "parquet", b"ARROW1\0\0": "arrow", b"\xff\xff\xff\xff": "arrow"},
    **{b"PK\3\4": "excel", b"\xd0\xcf\x11\xe0": "excel"},
}
_OBJECT = re.compile(r'\ufeff?\s*(\[\s*)?\{\s*"')
HEAD = 1 << 16  # characters that show whether a text is JSON


def binary_format(head: bytes) -> str:
    """The format of a file that is not a text; empty for a text."""
    found = next((kind for magic, kind in _BINARY.items() if head.startswith(magic)), "")
    return "" if found == "parquet" and is_text(head) else found


def is_json(head: str) -> bool:
    """Whether a text begins with a JSON object, a list of them, or a line that is a list."""
    if _OBJECT.match(head):
        return True
    line = next((line for line in head.splitlines() if line.strip()), "")
    try:
        return isinstance(json.loads(line), list)
    except (ValueError, RecursionError):
        return False


def text_format(source: Source, file: File) -> str:
    """The format of a text whose name says nothing: it may be lines, a table, fastText, JSON."""
    strict, recorded = file.strict, file.recorded
    with open_text(file.path, file.name, file.options) as text:
        if is_json(text.read(HEAD)):
            return "json"
        marked = Counter(bool(LABELED.search(line)) for line in text.again() if line.strip())
        if marked[True] > marked[False]:
            return "fasttext"
        if recorded and _may_be(recorded, text, strict):
            return recorded.format
        table = _table(file, text, "auto" if strict or source.suffix != ".txt" else "\t")
        if not marked or not (strict or table):
            return "lines"
        if strict and table:
            return "csv"
        raise _in_doubt(source.name, text, table)


def _may_be(recorded: ReadAs, text: TextStream, strict: bool) -> bool:
    """Whether a text may have the format of the training's files: one of lines, if any."""
    if recorded.format != "csv" or strict:
        return recorded.format in ("csv", "lines", "label_text")
    mark = recorded.options.get("delimiter", "\t")
    with_mark = Counter(mark in line for line in text.again() if line.strip())
    return with_mark[True] > with_mark[False]


def _table(file: File, text: TextStream, delimiter: str) -> str:
    """What separates the fields of a table; empty if the lines are none, by nearly all of them."""
    asked = Asked.of(replace(file, options=replace(file.options, delimiter=delimiter)), text)
    try:
        found = detect(asked)
    except UserError as error:
        return "fields" if error.fix else ""  # a table that may be read in several ways
    fits = found.width > 1 and found.bad * 50 <= found.rows
    return found.dialect.delimiter if fits else ""


def _in_doubt(name: str, text: TextStream, table: str) -> UserError:
    """The error of a text that may be read in several ways."""
    if table:
        fix = 'data.format = "csv" reads columns, "lines" reads each line as a text'
        what = {"\t": "tabs", "fields": table}.get(table, repr(table))
        why = f"all lines have the same number of {what}"
        ways = {"data.format": "csv"}, {"data.format": "lines"}
        return UserError(f"{name}: {why}; {fix}", fix=ways[0], others=ways[1:])
    first, label = next(filter(str.strip, text.again()), "").strip(), ""
    colon = _before_colon(text)
    if labels_first(text):
        label, _, rest = first.partition(" ")
        shown = f"a label, a blank and a text ({shorten(label)} and {shorten(rest)} in the first)"
        keys = f'data.format = "label_text" reads that{colon and f"; if it ends at the {colon}"}'
        return UserError(
            f"{name}: each line may be {shown}; {keys}", fix={"data.format": "label_text"}
        )
    if colon:
        return UserError(f"{name}: each line may be a label and a text; at the {colon}")
    keys = 'data.delimiter or data.format = "label_text" says where the label is'
    return UserError(f"{name}: lines without columns ({shorten(first)}); {keys}")


def _before_colon(text: TextStream) -> str:
    """How lines are parted at their first colon, within their first word; empty if not all may."""
    parted = (line.partition(":") for line in text.again() if line.strip())
    before = Counter(label if colon and rest[:1].strip() else "" for label, colon, rest in parted)
    if "" in before or not 1 < len(before) <= before.total() / 4:
        return ""
    return "colon: " + filtered(text.source, "sed 's/:/\\t/'", ".tsv") + " converts it"
