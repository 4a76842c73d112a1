"""What can be wrong with a corpus, found before anything is trained: each mistake a line with file and row."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from distsent.data.labels import MISSING, UNKNOWN, UNLABELLED, Labels
from distsent.data.rows import Columns, Rows, Source, gather
from distsent.errors import UserError

if TYPE_CHECKING:
    from distsent.data.dataset import TextDataset

SHOWN = 3  # rows that a line names before it counts
CURE = "data.drop_bad_rows = true leaves such rows out"


def check(corpus: TextDataset) -> list[str]:
    """Warnings about a corpus, one line each. Raises UserError with all that makes it unfit to train on."""
    corpus.splits  # noqa: B018  (reads and checks all rows)
    lost = _lost(corpus) if corpus.data.max_rows and not corpus.scored else ()
    return [*corpus.warnings, *_repeated(corpus), *lost]


def columns(source: Source, wanted: Columns) -> None:
    """Raises UserError with a line for each column that a file lacks."""
    lines = []
    keys = {
        "data.text_column": wanted.text,
        "data.pair_column": wanted.pair,
        "data.label_column": wanted.label,
    }
    for split in source.splits:
        for file, there in source.columns(split):
            for key, column in keys.items():
                if column is not None and column not in there:
                    lines.append(f"{file}: no column {column!r} ({key}); {_closest(column, there)}")
    if lines:
        raise UserError(*lines)


def _closest(column: str, there: Sequence[str]) -> str:
    lower = {name.lower(): name for name in there}
    close = difflib.get_close_matches(column.lower(), lower, n=1, cutoff=0.5)
    listed = f"there are {', '.join(there)}" if there else "the file is empty"
    return f"did you mean {lower[close[0]]!r}? {listed}" if close else listed


@dataclass(frozen=True)
class Texts:
    """What one pass over the texts of a split finds: `empty` bool (n,); `hashes` uint64 (n,), equal for equal texts."""

    empty: np.ndarray
    hashes: np.ndarray


def texts(rows: Rows) -> Texts:
    """Read all texts once, in pieces: memory stays small whatever the corpus. Raises UserError for what is not text."""
    empty, hashes = np.zeros(len(rows), dtype=bool), np.zeros(len(rows), dtype=np.uint64)
    for part in rows.parts:
        for column in rows.columns.texts:
            kind = part.table.schema.field(column).type
            if not (
                pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)
            ):
                raise UserError(f"{part.name}: column {column!r} holds {kind}, not text")
    for start, batch in rows.batches():
        here = slice(start, start + batch.num_rows)
        for column in rows.columns.texts:
            values = batch.column(column)
            try:
                empty[here] |= _is_empty(values)
                words = values.to_pylist()
            except (pa.ArrowInvalid, UnicodeDecodeError):
                raise UserError(*_undecodable(rows, start, values)) from None
            fresh = np.fromiter(
                (xxh3_64_intdigest((word or "").encode()) for word in words), np.uint64, len(words)
            )
            hashes[here] = hashes[here] * np.uint64(31) + fresh
    return Texts(empty, hashes)


def _is_empty(values: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_null(values.type):
        return np.ones(len(values), dtype=bool)
    blank = pc.or_(pc.equal(pc.binary_length(values), 0), pc.utf8_is_space(values))
    return pc.fill_null(blank, True).to_numpy()


def _undecodable(rows: Rows, start: int, values: pa.ChunkedArray) -> Iterator[str]:
    for offset, value in enumerate(pc.cast(values, pa.large_binary())):
        try:
            (value.as_py() or b"").decode()
        except UnicodeDecodeError as error:
            yield f"{rows.origin(start + offset)}: the text is not UTF-8 (byte 0x{error.object[error.start]:02x})"
            return


def usable(
    splits: dict[str, Rows], found: dict[str, Texts], labels: Labels, drop: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The good rows of each split, ascending int64, and warnings. Raises UserError for bad rows unless `drop`."""
    out: dict[str, np.ndarray] = {}
    errors: list[str] = []
    warnings: list[str] = []
    outside = f"a label outside the classes {', '.join(labels.names)}"
    for split, rows in splits.items():
        codes, empty = labels.of[split], found[split].empty
        faults = {
            "no text (null, empty or only white space)": empty,
            "no label": codes == MISSING,
            "the label -1 (not labelled; if it is a class, name it in data.labels)": codes
            == UNLABELLED,
            outside: codes == UNKNOWN,
        }
        for what, where in faults.items():
            errors += _lines(rows, np.flatnonzero(where), what, show_label=what == outside)
        good = ~empty & (codes >= 0)
        if drop and split not in ("train", "pool") and (codes == UNLABELLED).all():
            warnings.append(f"{split}: left out, none of its {_count(len(good))} is labelled")
            continue
        out[split] = np.flatnonzero(good)
        if drop and not good.all():
            bad = len(good) - len(out[split])
            warnings.append(
                f"{split}: {_count(bad)} of {len(good):,} left out for want of text or label"
            )
    if errors and not drop:
        raise UserError(*errors[:-1], f"{errors[-1]}; {CURE}")
    return out, warnings


def _lines(rows: Rows, bad: np.ndarray, what: str, show_label: bool) -> Iterator[str]:
    """A line for each file with bad rows."""
    bounds = np.searchsorted(bad, rows.starts)
    for part, start, first, last in zip(
        rows.parts, rows.starts[:-1], bounds[:-1], bounds[1:], strict=True
    ):
        if first < last:
            shown = bad[first : min(last, first + SHOWN)]
            some = [rows.place(int(row))[1] for row in shown]
            if show_label:
                values = gather(part.table.column(rows.columns.label), shown - start)
                some = [f"{name} ({value!r})" for name, value in zip(some, values, strict=True)]
            more = f" and {last - first - SHOWN:,} more" if last - first > SHOWN else ""
            yield f"{part.name}: {_count(last - first)} with {what}: {', '.join(some)}{more}"


def classes(usable: dict[str, np.ndarray], labels: Labels) -> list[str]:
    """Warnings about classes without any row. Raises UserError for classes that cannot be learned or scored."""
    errors: list[str] = []
    warnings: list[str] = []
    many = len(labels.names)
    counts = {
        split: np.bincount(labels.of[split][rows], minlength=many)
        for split, rows in usable.items()
        if len(rows)
    }
    errors += [f"the {split} split has no rows" for split in usable if split not in counts]
    base = next(iter(counts), None)
    if base in ("train", "pool"):
        for i, name in enumerate(labels.names):
            elsewhere = [split for split in counts if split != base and counts[split][i]]
            if counts[base][i] == 0 and elsewhere:
                rows = " and ".join(
                    f"{split} has {_count(int(counts[split][i]))}" for split in elsewhere
                )
                cure = "if it is none, name the classes in data.labels"
                errors.append(f"class {name!r} has no training rows, but {rows} of it; {cure}")
            elif counts[base][i] == 0:
                warnings.append(f"class {name!r} has no rows in any split")
        if np.count_nonzero(counts[base]) == 1:
            only = labels.names[int(counts[base].argmax())]
            errors.append(
                f"all training rows are of one class, {only!r}: there is nothing to learn"
            )
    if errors:
        raise UserError(*errors)
    return warnings


def _repeated(corpus: TextDataset) -> Iterator[str]:
    """Texts that stand both in train and in a split that scores: the score flatters the model."""
    train = corpus.splits.get("train")
    for name, split in corpus.splits.items():
        if (
            train is not None
            and split is not train
            and (same := int(_among(split.hashes, train.hashes).sum()))
        ):
            yield f"{name}: {same:,} of {len(split):,} texts stand in train, too; scores on them flatter the model"


def _among(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """Which of `few` stand in `many`, bool. Sorts the few only: np.isin takes four times as long and much memory."""
    sorted_few = np.unique(few)
    places = np.minimum(np.searchsorted(sorted_few, many), len(sorted_few) - 1)
    return np.isin(few, many[sorted_few[places] == many])


def _lost(corpus: TextDataset) -> Iterator[str]:
    """Classes of which data.max_rows has drawn nothing."""
    train = corpus.splits["train"]
    drawn = set(np.unique(train.labels))
    if lost := [repr(name) for i, name in enumerate(corpus.label_names) if i not in drawn]:
        yield f"train: no row of {', '.join(lost)} is among the {len(train):,} that data.max_rows has drawn"


def _count(n: int) -> str:
    return f"{n:,} row" if n == 1 else f"{n:,} rows"
