"""Texts that are a word for a missing one, such as NULL: `data.na_values` says what they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.compute as pc

from distsent.errors import UserError
from distsent.formats.records import counted
from distsent.job.keys import to_toml_value

# Words that other programs write where a value is missing, without case
WORDS = {"nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>", r"\n"}
LONGEST = 8  # bytes of a text that is compared with them: a word, with some blanks around
MOST = 10_000  # different short texts that are counted


def add_short(counts: Counter[str], texts: pa.ChunkedArray) -> None:
    """Count the texts that are hardly longer than such a word, without outer blanks."""
    if pa.types.is_null(texts.type):
        return
    short = texts.filter(pc.less_equal(pc.binary_length(texts), LONGEST))
    for text in map(str.strip, filter(None, short.to_pylist())):
        if text in counts or len(counts) < MOST or is_word(text):
            counts[text] += 1


def is_word(text: str) -> bool:
    """Whether a text may mean that there is none."""
    return len(text) <= LONGEST and text.casefold() in WORDS


def find_missing(texts: pa.ChunkedArray, words: tuple[str, ...]) -> pa.ChunkedArray:
    """Which texts are one of these words, but for outer blanks; null for null."""
    return pc.is_in(pc.utf8_trim_whitespace(texts), value_set=pa.array(words, texts.type))


def question(text: str, rows: int, where: str) -> str:
    """A line for such a word that stands in some rows."""
    line = f"{where}: {counted(rows, 'row')} with the text {text!r}: is it a missing one?"
    return f"{line} data.na_values = {to_toml_value([text])} says so"


def notes(counts: Mapping[str, int], where: str) -> Iterator[str]:
    """A line for each such word among the texts, if data.na_values does not decide.

    Raises UserError for words that hardly are texts: they stand in several rows, and no other text
    as short in as many. In chats, where people write "none", they write "ok" more often.
    """
    found = {text: n for text, n in sorted(counts.items()) if is_word(text)}
    usual = max((n for text, n in counts.items() if text not in found), default=0)
    certain = [text for text, n in found.items() if n > max(1, usual)]
    yield from (question(text, n, where) for text, n in found.items() if text not in certain)
    if certain:
        rows = " and ".join(f"{counted(found[text], 'row')} with {text!r}" for text in certain)
        says = f"data.na_values = {to_toml_value(certain)}"
        raise UserError(
            f"{where}: {rows}, and no other text as short as often: {says} if it means that there "
            "is no text, [] keeps all texts",
            fix={"data.na_values": certain},
            others=[{"data.na_values": []}],
        )
