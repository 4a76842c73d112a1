"""What the error of a file that no usual dialect fits suggests: keys, or a command.

Such a dialect is never taken without the key that names it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from distsent.errors import UserError
from distsent.formats.commands import filtered, from_row
from distsent.formats.delimited.asked import Asked
from distsent.formats.delimited.evidence import Evidence
from distsent.formats.records import counted, shorten
from distsent.job.keys import to_toml_value

# The reading of all rows, if there is one; may raise UserError
Read = Callable[[Asked, str], Evidence | None]
ABOVE = 10  # lines above a header
FEW = 3  # rows: fewer are no evidence
# Quotes and escapes that the usual ones leave out, each in the order of likelihood
_WRITTEN: tuple[dict[str, Any], ...] = (
    {"quoting": "'"},
    {"escapechar": "\\"},
    {"quoting": "none", "escapechar": "\\"},
    {"quoting": "'", "escapechar": "\\"},
)
# Several signs that stand alone or between blanks: _!_, |||, ::, +++$+++
_SIGNS = re.compile(r"""[ \t]?(?:[^\w\s"'()\[\]{}.,;?]|_){2,}[ \t]?""")
_ADDRESS = "://"


def signs(head: str) -> list[str]:
    """Delimiters of several characters that a first line may have, the longest first."""
    found = dict.fromkeys(match[0] for match in _SIGNS.finditer(head))
    every = dict.fromkeys(mark for sign in found for mark in (sign, sign.strip()))
    parts = {mark: head.split(mark) for mark in every if mark != _ADDRESS}
    # The last field may be empty, but one sign at the end of a line separates nothing
    fit = [mark for mark, some in parts.items() if all(some[:-1]) and (some[-1] or len(some) > 2)]
    return sorted(fit, key=len, reverse=True)


def way_out(asked: Asked, head: str, end: str, read: Read, damaged: bool) -> UserError | None:
    """An error that says how the file can be read; None if nothing is known.

    `head`: the first line. `damaged`: quotes stand around fields, but are not well-formed.
    """
    written = [keys for keys in _WRITTEN if not (damaged and keys.get("quoting") == "none")]
    if not any("\\" in line for line in asked.lines(end)):
        written = [keys for keys in written if "escapechar" not in keys]
    return _suggest(asked, head, end, read, written) or _lines_above(asked, head, end, read)


def _suggest(
    asked: Asked, head: str, end: str, read: Read, written: Sequence[dict[str, Any]]
) -> UserError | None:
    """An error with keys that give all rows as many fields."""
    marks = [" ", *signs(head)] if asked.options.delimiter == "auto" else []
    unset = {"quoting": "auto", "escapechar": None}
    written = [x for x in written if all(getattr(asked.options, k) == unset[k] for k in x)]
    found = [*_readings(asked, [{"delimiter": mark} for mark in marks], end, read)]
    found = found or [*islice(_readings(asked, written, end, read), 1)]
    if not found:
        return None
    keys, evidence = found[0]
    bare = [way for way, _ in found if way.get("delimiter") != str(keys.get("delimiter")).strip()]
    said = " and ".join(f"data.{key} = {to_toml_value(value)}" for key, value in keys.items())
    number = counted(evidence.row_width, "field")
    line = f"{asked.name}: no usual delimiter and quotes fit, but {said} reads {number} in each row"
    ways = [{f"data.{key}": value for key, value in way.items()} for way in [keys, *bare[1:]]]
    return UserError(line, fix=ways[0], others=ways[1:])


def _readings(
    asked: Asked, ways: Sequence[dict[str, Any]], end: str, read: Read
) -> Iterator[tuple[dict[str, Any], Evidence]]:
    """Those of `ways` that give all rows as many fields, with the evidence."""
    for keys in ways:
        try:
            found = read(replace(asked, options=replace(asked.options, **keys)), end)
        except UserError:
            continue
        if found and found.width > 1 and found.rows >= FEW and _is_sure(found, keys):
            yield keys, found


def _is_sure(found: Evidence, keys: dict[str, Any]) -> bool:
    """Whether the rows show what the keys say; blanks separate only what quotes hold together."""
    if keys.get("delimiter") == " ":
        return bool(found.quotes.always(found.rows))
    return "quoting" not in keys or keys["quoting"] == "none" or bool(found.quotes.quoted)


def _lines_above(asked: Asked, head: str, end: str, read: Read) -> UserError | None:
    """An error if the file can be read once some first lines of another kind are left out."""
    for skipped, line in zip(range(1, ABOVE + 1), asked.lines(end), strict=False):
        try:
            found = read(replace(asked, skipped=skipped), end)
        except UserError:
            return None
        if not found:
            continue
        mark = found.dialect.delimiter
        if found.width < 2 or found.rows < FEW or (mark in line and not line.startswith("#")):
            return None
        lines = "the first line" if skipped == 1 else f"the first {skipped} lines"
        fix = f"{from_row(asked.text.source, skipped + 1)} leaves them out"
        return UserError(
            f"{asked.name}: {lines} ({shorten(head)}) above the header: not read; {fix}"
        )
    return None


def split_once(asked: Asked, found: Evidence, end: str) -> str:
    """A command for a file of two columns, one of classes, whose texts contain the delimiter."""
    mark = found.dialect.delimiter
    if found.width != 2 or mark == "\t":
        return ""
    first, last = set[str](), set[str]()
    for line in asked.lines(end):
        first.add(line.partition(mark)[0])
        last.add(line.rpartition(mark)[2])
    classes = [some for some in (first, last) if len(some) - asked.has_header > 1]
    few = min(classes, key=len, default=first)
    if len(few) > found.rows / 4 or not classes:
        return ""
    pattern = re.escape(mark) if mark in "|^" else mark
    command = f"sed 's/{pattern}/\\t/'" if few is first else f"sed -E 's/(.*){pattern}/\\1\\t/'"
    which = "first" if few is first else "last"
    shell = filtered(asked.text.source, command, ".tsv")
    return f"if only the {which} {shorten(mark)} of a line separates: {shell}"
