"""Rows among the data that hardly belong to them: a second header, units, a total, a comment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import numpy as np

from distsent.data.labels.classes import Labels
from distsent.data.row_arrays import count, take
from distsent.data.rows import Rows
from distsent.errors import UserError
from distsent.formats.records import shorten
from distsent.job.keys import to_toml_value

ENOUGH = 5  # rows of each other class: among rarer ones, a class of one row is no wonder
FEWEST, SAMPLE = 20, 200  # rows of a file; its texts that show how long they are
COMMENTS = ("# ", "// ", "-- ")


class Edge(NamedTuple):
    """The first or the last row of a file."""

    rows: Rows
    row: int
    label: int
    odd: bool  # the text is short beside the others of the file, or like a comment

    def line(self, names: tuple[str, ...]) -> str:
        """File, row, text, and what is wrong."""
        (text,) = self.rows.read(self.rows.columns.text, np.array([self.row]))
        found = f"no other row has its label, {shorten(names[self.label])}"
        return f"{self.rows.origin(self.row)}, {shorten(text)}: {found}"


def check_odd_rows(
    splits: Mapping[str, Rows], good: Mapping[str, np.ndarray], labels: Labels
) -> list[str]:
    """Notes on first and last rows of files whose label no other row has.

    `good`: the rows that count. Raises UserError where the text is odd, too.
    """
    named = labels.naming.names or labels.naming.numbered or labels.arrays
    if named or any(part.label_names for rows in splits.values() for part in rows.parts):
        return []
    codes = (take(labels.indices[split], rows) for split, rows in good.items())
    total = sum((count(some, len(labels.names)) for some in codes), np.zeros(1, np.int64))
    edges = [
        edge for s, rows in good.items() for edge in _edges(splits[s], rows, labels.indices[s])
    ]
    at_edges = Counter(edge.label for edge in edges)
    lone = {label for label, n in at_edges.items() if n == total[label]}
    others = total[[i for i, n in enumerate(total) if n and i not in lone]]
    if len(others) < 2 or others.min() < ENOUGH:
        return []
    found = [edge for edge in edges if edge.label in lone]
    if not (odd := [edge for edge in found if edge.odd]):
        return [f"{edge.line(labels.names)}; does it belong to the data?" for edge in found]
    dropped = sorted({labels.names[edge.label] for edge in odd})
    leave_out = f"data.drop_labels = {to_toml_value(dropped)} leaves out what is a second header"
    lines = [edge.line(labels.names) for edge in odd]
    lines[-1] += (
        f"; {leave_out}, units, a total or a comment; data.labels with all classes keeps it"
    )
    keys = {"data.drop_labels": dropped}, {"data.labels": [*labels.names]}
    raise UserError(*lines, fix=keys[0], others=keys[1:])


def _edges(rows: Rows, good: np.ndarray, codes: np.ndarray) -> Iterator[Edge]:
    """Those of files with some rows. `good`: the rows that count; `codes`: labels of all rows."""
    bounds = np.searchsorted(good, rows.starts)
    for first, end in pairwise(bounds):
        if end - first < FEWEST:
            continue
        others = rows.read(rows.columns.text, good[first + 1 : min(end - 1, first + SAMPLE)])
        lengths = [*map(len, others)]
        short = max(median(lengths) / 2, min(lengths) * 3 / 4)
        for row in (int(good[first]), int(good[end - 1])):
            (text,) = rows.read(rows.columns.text, np.array([row]))
            odd = len(text) < short or text.startswith(COMMENTS)
            yield Edge(rows, row, int(codes[row]), odd)
