"""The numbers that a regression learns: from the values of its columns to float64."""

from __future__ import annotations

import math
import re

import numpy as np

from distsent.data.labels.classes import MISSING, Fault, Labels, name_files
from distsent.data.labels.names import Naming
from distsent.data.labels.values import distinct_words
from distsent.data.rows import Part, Rows

DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NOT_A_NUMBER = -100  # of the first column; -101 of the second, ...


def read_numbers(splits: dict[str, Rows], naming: Naming) -> Labels:
    """The numbers of all rows, in the order of the columns."""
    columns = next(iter(splits.values())).columns.of_labels
    parts = [part for rows in splits.values() for part in rows.parts]
    indices, arrays = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for split, rows in splits.items():
        arrays[split] = np.full((len(rows), len(columns)), np.nan)
        indices[split] = codes = np.zeros(len(rows), np.int64)
        for part, start in zip(rows.parts, rows.starts, strict=False):
            here = slice(int(start), int(start) + part.table.num_rows)
            for k, column in enumerate(columns):
                numbers, missing = _numbers(part, column)
                arrays[split][here, k] = numbers
                bad = np.where(np.isfinite(numbers), 0, NOT_A_NUMBER - k)
                codes[here] = np.minimum(codes[here], np.where(missing, MISSING, bad))
    faults = {
        NOT_A_NUMBER - k: Fault(f"no finite number in column {name!r}", column=name)
        for k, name in enumerate(columns)
    }
    where = f"{name_files(parts)}: {' and '.join(map(repr, columns))}"
    return Labels(columns, indices, {}, [], naming, where, arrays, faults)


def _numbers(part: Part, column: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a column, NaN for others, float64 (n,); where it has no value, bool (n,)."""
    words, places = distinct_words(part, column)
    known = np.array([to_number(word) for word in words], dtype=np.float64)
    blank = np.array([word == "" for word in words], dtype=bool)
    return known[places], blank[places]


def to_number(word: str) -> float:
    """The number that a word is; NaN if it is none: 1,5 and nan and 1_000 are not."""
    word = word.strip()
    return float(word) if DECIMAL.fullmatch(word) else math.nan
