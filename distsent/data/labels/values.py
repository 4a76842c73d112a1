"""What a label column contains: which values are labels, and how often each occurs."""

import ast
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distsent.data.plain_types import is_list
from distsent.data.rows import Part
from distsent.errors import UserError
from distsent.formats.records import decode_error, printable, shorten

NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
INTEGER = re.compile(r"-?(0|[1-9]\d*)", re.ASCII)
QUOTED, MOST = 80, 10  # characters and values that a message quotes
_DIGITS = re.compile(r"\+?(-?)0*(\d+)(?:\.(\d*?)0*)?", re.ASCII)
# Of a list that is written as text: texts in quotes, marks, other values
_TOKENS = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[][{}:,]|[^][{}:,'"\s]+""", re.DOTALL)
_MARKS = "[]{}:,"
_WHOLE = re.compile(r"(-?\d+)\.0*", re.ASCII)
_FORMS = re.compile("[\ufe00-\ufe0f]")  # of a sign: as text or as emoji


def normalize_label(value: Any) -> str | None:
    """A label as text: 1, 1.0 and "1" are the same class. None, NaN and blanks are None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    word = value if isinstance(value, str) else json.dumps(value)
    if not word or word.isspace():
        return None
    return whole[1] if (whole := _WHOLE.fullmatch(word)) else word


def label_error(value: Any, number: bool = False) -> str:
    """Why a value is not a label; empty if it is one, or none at all (null, NaN, "").

    `number`: that of a regression. Words and numbers that are not finite are counted elsewhere.
    """
    if value is None or isinstance(value, str | bool | int):
        return ""
    if isinstance(value, float):
        return f"{value} is not a label" if math.isinf(value) and not number else ""
    if number:
        return f"{shorten(value)} is not a number; data.label_columns reads one from each column"
    if isinstance(value, list | tuple | set | np.ndarray):
        return f'{shorten(value)}: several labels need data.task = "multi_label"'
    return f"{shorten(value)} is not a label: expected a word or an integer"


def fold(word: str) -> str:
    """Equal for labels that differ in white space, case, Unicode form or leading zeros alone."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", word).casefold())
    text = _FORMS.sub("", text.replace("i\u0307", "i").replace("\u0131", "i"))
    text = "".join(mark for mark in text if unicodedata.category(mark) != "Cf")  # zero width
    text = " ".join(text.split())
    if not (number := _DIGITS.fullmatch(text)):
        return text
    sign, whole, rest = number.groups("")
    if not rest:
        return whole if whole == "0" else f"{sign}{whole}"
    return f"{sign}{whole}.{rest}"


def count_labels(part: Part, column: str) -> Counter[str]:
    """The rows of each label; "": rows without. Raises UserError for what is not a label."""
    counts: Counter[str] = Counter()
    found = pc.value_counts(_plain(part, column))
    words = _words(part, column, found.field(0))
    for word, n in zip(words, found.field(1).to_pylist(), strict=True):
        counts[word] += n
    return counts


def label_indices(
    part: Part, column: str, index: Mapping[str, int], other: int
) -> Iterator[np.ndarray]:
    """`index` of the label of each row ("": without), in pieces; `other` where it has none."""
    for chunk in _plain(part, column).chunks:
        values = pc.unique(chunk)
        codes = [index.get(word, other) for word in _words(part, column, values)]
        places = pc.index_in(chunk, value_set=values).to_numpy(zero_copy_only=False)
        yield np.array(codes, dtype=np.int32)[places]


def distinct_words(part: Part, column: str, number: bool = False) -> tuple[list[str], np.ndarray]:
    """The different labels of a column, and which of them each row has, int64 (n,).

    `number`: as for `label_error`.
    """
    plain = _plain(part, column, number)
    values = pc.unique(plain)
    if not len(values):
        return [], np.empty(0, dtype=np.int64)
    places = pc.index_in(plain, value_set=values).to_numpy()
    return [*_words(part, column, values, number)], places


def _words(part: Part, column: str, distinct: pa.Array, number: bool = False) -> Iterable[str]:
    try:
        values = distinct.to_pylist()
    except UnicodeDecodeError:
        raise _decode_error(part, column, distinct) from None
    for value in values:
        if error := label_error(value, number):
            row = part.number(pc.index(_plain(part, column), value).as_py())
            raise UserError(f"{part.name}, {row}: column {column!r}: {error}")
        word = normalize_label(value) or ""
        yield word if word and fold(word) else ""


def _decode_error(part: Part, column: str, distinct: pa.Array) -> UserError:
    raw = pc.cast(_plain(part, column), pa.large_binary())
    for value in pc.cast(distinct, pa.large_binary()).drop_null().to_pylist():
        if error := decode_error(value.decode(errors="surrogateescape")):
            row = part.number(pc.index(raw, value).as_py())
            return UserError(f"{part.name}, {row}: column {column!r}: the label is {error}")
    return UserError(f"{part.name}: column {column!r}: not UTF-8")


def _plain(part: Part, column: str, number: bool = False) -> pa.ChunkedArray:
    """The column with values of a simple type. Raises UserError for other types."""
    values, t = part.table.column(column), pa.types
    kind = values.type.value_type if t.is_dictionary(values.type) else values.type
    if t.is_float16(kind):  # for which Arrow lacks most functions
        kind = pa.float32()
    simple = (t.is_integer, t.is_floating, t.is_boolean, t.is_string, t.is_large_string, t.is_null)
    if not any(test(kind) for test in simple):
        if t.is_string_view(kind) or t.is_decimal(kind):
            kind = pa.string()
        else:
            raise _type_error(part.name, column, values, number)
    return values if kind == values.type else pc.cast(values, kind)


def _type_error(file: str, column: str, values: pa.ChunkedArray, number: bool) -> UserError:
    kind, first = str(values.type)[:QUOTED], pc.index(pc.is_valid(values), True).as_py()
    if first < 0:
        return UserError(f"{file}: column {column!r} contains {kind}, neither words nor integers")
    error = label_error(values[first].as_py(), number)
    fix = {} if number or not is_list(values.type) else {"data.task": "multi_label"}
    return UserError(f"{file}, row {first + 1}: column {column!r} ({kind}): {error}", fix=fix)


def list_error(value: Any, delimiter: str | None) -> str:
    """Why a value is not a list of labels; empty if it is one, or none at all.

    With a `delimiter`, lists are written as text.
    """
    if value is None:
        return ""
    if isinstance(value, list):
        if delimiter:
            return f"{shorten(value)} is a list; data.label_delimiter is for labels in one text"
        if inner := next((one for one in value if isinstance(one, list | tuple)), None):
            return f"{shorten(inner)} is a list within a list"
        return next(filter(None, map(label_error, value)), "")
    if isinstance(value, str) and delimiter:
        return ""
    if isinstance(value, str):
        return f"{shorten(value)} is text; data.label_delimiter says what is between its labels"
    need = "expected a list, or one column per class in data.label_columns"
    return f"{shorten(value)} is not a list of labels; {need}"


def written_list(text: str) -> list[Any] | None:
    """The labels of a list that is written as text, as by pandas or Label Studio; None for others.

    "['a', 'b']", '["a", "b"]', '{"choices": ["a", "b"]}', and as NumPy does: "['a' 'b']", "[0 1]".
    """
    word = text.strip()
    if word[:1] + word[-1:] not in ("[]", "{}"):
        return None
    tokens = _TOKENS.findall(word)
    if any(a not in _MARKS and b not in _MARKS for a, b in pairwise(tokens)):
        if {",", ":"} & {*tokens}:
            return None  # of two texts side by side Python makes one
        word = f"[{', '.join(tokens[1:-1])}]"
    for parse in (json.loads, ast.literal_eval):
        try:
            found = parse(word)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        lists = [*found.values()] if isinstance(found, dict) else [found]
        labels = [one for some in lists if isinstance(some, list) for one in some]
        fit = all(isinstance(some, list) for some in lists)
        return labels if fit and not any(map(label_error, labels)) else None
    return None


def quote(words: Iterable[str], marks: bool = True, longest: int = QUOTED // 2) -> str:
    """The first words, at most 80 characters of them, and how many more there are."""
    shown: list[str] = []
    words, size = list(words), 0
    for word in words:
        word = word if len(word) <= longest else f"{word[: longest - 3]}..."
        size += len(word)
        if shown and (size > QUOTED or len(shown) == MOST):
            break
        shown.append(printable(repr(word) if marks else word))
    more = len(words) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")
