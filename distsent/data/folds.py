"""Folds: parts of the rows, each of which is held out once, and datasets that hold one out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from distsent.data.dataset import Split
from distsent.data.rows import count_rows
from distsent.errors import UserError
from distsent.job.schema import DataSection


def draw_folds(labels: np.ndarray, hashes: np.ndarray, count: int, asked: str) -> np.ndarray:
    """The fold of each row, int64 (n,). Depends on the rows alone; equal texts stay together.

    All folds have the same share of each class; of several labels and of numbers: by chance. Rows
    in fold -1 are held out by none: a fold that did would train without a class.
    Raises UserError for less than two different texts per fold; `asked`: what asks for them.
    """
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    classes = labels[first] if labels.ndim == 1 else np.zeros(len(first), np.int64)
    order = np.lexsort((hashes[first], classes))  # hashes are random numbers
    if len(first) < 2 * count:
        raise UserError(f"{asked}: train has only {len(first)} different texts")
    fold_of_text = np.empty(len(first), dtype=np.int64)
    fold_of_text[order] = np.arange(len(first)) % count
    fold_of_text[which[_rows_in_one_fold(labels, fold_of_text[which])]] = -1
    left = np.bincount(fold_of_text[fold_of_text >= 0], minlength=count)
    if not left.all():
        found = f"only {left.sum()} different texts are of classes with other texts"
        raise UserError(f"{asked}: {found}, too few for {count} folds")
    return fold_of_text[which]


def _rows_in_one_fold(labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """The rows of classes of which one fold has all rows."""
    if labels.dtype.kind == "f":
        return np.empty(0, np.int64)
    rows, classes = (np.arange(len(labels)), labels) if labels.ndim == 1 else np.nonzero(labels)
    first = np.full(classes.max(initial=0) + 1, np.iinfo(np.int64).max)
    last = np.full(len(first), -1)
    np.minimum.at(first, classes, folds[rows])
    np.maximum.at(last, classes, folds[rows])
    return rows[(first == last)[classes]]


def not_scored(rows: int) -> str:
    """What is to be known of the rows in fold -1."""
    return f"{count_rows(rows)} not scored: without them, a fold would train without a class"


def rows_as_json(splits: Sequence[Split], names: Sequence[str]) -> Iterator[str]:
    """A JSON line for each row of these splits, as `data_of_fold` reads them."""
    text, pair = text_keys(names)
    for split in splits:
        pairs = split.pairs(slice(None))
        for i, content in enumerate(split.texts(slice(None))):
            row: dict[str, object] = {text: content}
            row |= {pair: pairs[i]} if pairs else {}
            yield json.dumps(row | _labels(split.labels[i], names)) + "\n"


def _labels(labels: np.ndarray, names: Sequence[str]) -> dict[str, object]:
    """The label of a row: a class, several, or numbers."""
    if labels.ndim == 0:
        return {"label": names[int(labels)]}
    if labels.dtype.kind == "f":
        return dict(zip(names, labels.tolist(), strict=True))
    return {"label": [names[i] for i in np.flatnonzero(labels).tolist()]}


def data_of_fold(data: DataSection, source: str, names: Sequence[str]) -> DataSection:
    """`data`, for the files in `source`: only where rows come from differs."""
    (text, pair), numbers = text_keys(names), data.task == "regression"
    found = DataSection(
        source=source,
        text_column=text,
        pair_column=pair if data.has_pairs else None,
        task=data.task,
        max_length=data.max_length,
        long=data.long,
        window_overlap=data.window_overlap,
        template=data.template,
        na_values=(),  # its rows have texts, whatever words these are
        drop_bad_rows=data.drop_bad_rows,  # those of which the tokenizer leaves nothing
        store=data.store,
    )
    if numbers:
        return replace(found, label_columns=tuple(names))
    several = data.task == "multi_label"
    return replace(found, labels={name: name for name in names}, allow_empty_labels=several)


def text_keys(names: Sequence[str]) -> tuple[str, str]:
    """The keys of the two texts: numbers have their names as keys."""
    mark = "_" * max(
        (len(name) for name in names if name.strip("_") in ("text", "pair")), default=0
    )
    return f"text{mark}", f"pair{mark}"
