"""Checks of a dataset before training: each mistake is one line with file and row."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from distsent.data.labels.classes import DROPPED, MISSING, UNKNOWN, UNLABELED, Labels
from distsent.data.labels.targets import count_classes
from distsent.data.labels.values import QUOTED, quote
from distsent.data.missing_words import add_short, find_missing
from distsent.data.row_arrays import RowArray, blocks, count, take, where
from distsent.data.rows import Rows, count_rows, take_values
from distsent.errors import UserError
from distsent.formats.records import BLANK, decode_error, shorten
from distsent.job.keys import to_toml_value

NOT_LABELED = "the label -1 (not labeled; if it is a class, name it in data.labels)"
NO_LABEL_MARKS = ("-", "--", "?", "none", "null", "nan", "n/a", "na")
SHOWN = 3  # rows that a line names before it counts
BATCH = 10_000  # texts in memory at once


class Scan(NamedTuple):
    """What reading all texts shows."""

    empty: np.ndarray  # which rows have no text, bool (n,)
    hashes: np.ndarray  # equal for equal texts, uint64 (n,)
    short: Counter[str]  # how often the shortest texts occur


def scan_texts(rows: Rows, missing: tuple[str, ...] = ()) -> Scan:
    """`missing`: texts that mean that there is none.

    Reads all texts once, in pieces that bound the memory. Raises UserError for non-text.
    """
    empty, hashes, short = RowArray(bool), RowArray(np.uint64), Counter[str]()
    for part, first in zip(rows.parts, rows.starts, strict=False):
        columns = [part.table.column(name) for name in rows.columns.texts]
        for name, column in zip(rows.columns.texts, columns, strict=True):
            kind, t = column.type, pa.types
            if not (t.is_string(kind) or t.is_large_string(kind) or t.is_null(kind)):
                raise UserError(f"{part.name}: column {name!r} contains {kind}, not text")
        for offset in range(0, part.table.num_rows, BATCH):
            some = min(BATCH, part.table.num_rows - offset)
            blank, codes = np.zeros(some, bool), np.zeros(some, np.uint64)
            for values in (column.slice(offset, some) for column in columns):
                try:
                    blank |= _is_empty(values, missing)
                    add_short(short, values)
                    texts = values.to_pylist()
                except (pa.ArrowInvalid, UnicodeDecodeError):
                    raise _decode_error(rows, int(first) + offset, values) from None
                digests = (xxh3_64_intdigest((text or "").encode()) for text in texts)
                codes = codes * np.uint64(31) + np.fromiter(digests, np.uint64, some)
            empty.append(blank)
            hashes.append(codes)
    return Scan(empty.done(), hashes.done(), short)


def _is_empty(values: pa.ChunkedArray, missing: tuple[str, ...]) -> np.ndarray:
    if pa.types.is_null(values.type):
        return np.ones(len(values), dtype=bool)
    blank = pc.match_substring_regex(values, f"^{BLANK}$")
    if missing:
        blank = pc.or_(blank, find_missing(values, missing))
    return pc.fill_null(blank, True).to_numpy()


def _decode_error(rows: Rows, start: int, values: pa.ChunkedArray) -> UserError:
    for row, value in enumerate(pc.cast(values, pa.large_binary()).to_pylist(), start):
        if error := decode_error((value or b"").decode(errors="surrogateescape")):
            return UserError(f"{rows.origin(row)}: the text is {error}")
    return UserError(f"{rows.origin(start)}: the texts from here on cannot be decoded")


def find_good_rows(
    splits: dict[str, Rows], scans: dict[str, Scan], labels: Labels, drop: bool
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The rows of each split with text and label, int64 ascending, and warnings.

    Raises UserError for other rows unless `drop`, and for those that must not be left out.
    """
    out: dict[str, np.ndarray] = {}
    bad: list[str] = []
    fatal: list[str] = []
    warnings: list[str] = []
    allowed: list[str] = []
    others: list[dict[str, Any]] = []
    fix: dict[str, Any] = {"data.drop_bad_rows": True}
    for split, rows in splits.items():
        codes, empty = labels.indices[split], scans[split].empty
        left = len(codes) - len(dropped := _with(codes, DROPPED))
        if len(dropped):
            warnings.append(f"{split}: {count_rows(len(dropped))} left out by data.drop_labels")
            if not left and split not in ("train", "pool") and len(splits) > 1:
                continue
        blank = "no text (null, empty or only white space)"
        bad += row_lines(rows, _empty(codes, empty), blank)
        bad += row_lines(rows, _with(codes, MISSING), "no label")
        unlabeled, other = _with(codes, UNLABELED), _with(codes, UNKNOWN)
        if ambiguous := _may_be_a_class(codes, len(unlabeled), rows, labels):
            fatal += (f"{line}; {ambiguous}" for line in row_lines(rows, unlabeled, "the label -1"))
        else:
            bad += row_lines(rows, unlabeled, NOT_LABELED)
        outside = f"a label outside the classes {quote(labels.names, marks=False)}"
        # A model is wrong on rows of other classes: without them its scores would be too high
        shown = rows.columns.of_labels[0]
        (fatal if labels.naming.trained else bad).extend(row_lines(rows, other, outside, shown))
        for line, key in _fault_lines(rows, codes, labels):
            bad.append(line)
            allowed += [key] if key else []
        if len(other) or ambiguous:
            fix = {}  # leaving out what has another name would change the meaning of labels
        if drop and split not in ("train", "pool") and len(unlabeled) == len(codes):
            warnings.append(f"{split}: not used, none of its {count_rows(len(codes))} has a label")
            continue
        out[split] = _good(codes, empty)
        if drop and (bad_rows := left - len(out[split])):
            kinds = {"the label -1": unlabeled, "a label outside the classes": other}
            warnings.append(f"{split}: dropped {_dropped(bad_rows, left, kinds)}")
    if bad and not drop:
        bad[-1] += "; data.drop_bad_rows = true leaves such rows out"
        others = [fix] if allowed else []
        fix = dict.fromkeys(allowed, True) if len(allowed) == len(bad) else fix
    if fatal or (bad and not drop):
        raise UserError(*([] if drop else bad), *fatal, fix=fix, others=others)
    return out, warnings


def _with(codes: np.ndarray, code: int) -> np.ndarray:
    return where(len(codes), lambda some: codes[some] == code)


def _empty(codes: np.ndarray, empty: np.ndarray) -> np.ndarray:
    return where(len(codes), lambda some: empty[some] & (codes[some] != DROPPED))


def _good(codes: np.ndarray, empty: np.ndarray) -> np.ndarray:
    return where(len(codes), lambda some: ~empty[some] & (codes[some] >= 0))


def _fault_lines(rows: Rows, codes: np.ndarray, labels: Labels) -> Iterator[tuple[str, str]]:
    """A line for each fault of several labels, or of numbers; the key that allows it, or ""."""
    for code, fault in labels.faults.items():
        for line in row_lines(rows, _with(codes, code), fault.text, fault.column):
            allow = f"; {fault.allowed_by} = true allows it" if fault.allowed_by else ""
            yield f"{line}{allow}", fault.allowed_by


def _may_be_a_class(codes: np.ndarray, unlabeled: int, rows: Rows, labels: Labels) -> str:
    """What to do where -1, which data.labels does not decide, is as frequent as some class."""
    named = labels.naming.names or labels.naming.numbered or rows.parts[0].label_names
    sizes = count(codes)
    if named or labels.arrays or not 0 < sizes[sizes > 0].min(initial=len(codes)) <= unlabeled:
        return ""
    names = [*labels.names[:5], *(["..."] if len(labels.names) > 5 else [])]
    with_it = to_toml_value(["-1", *names])
    keys = 'data.drop_labels = ["-1"] if it means not labeled'
    return f"set data.labels = {with_it} if it is a class, or {keys}"


def _dropped(bad: int, rows: int, kinds: Mapping[str, np.ndarray]) -> str:
    line = f"{bad:,} of {count_rows(rows)} without text or label"
    some = " and ".join(
        f"{len(found):,} with {kind}" for kind, found in kinds.items() if len(found)
    )
    return f"{line} ({some})" if some else line


def row_lines(rows: Rows, bad: np.ndarray, fault: str, show: str = "") -> Iterator[str]:
    """A line for each file with bad rows. `show`: the column whose values it quotes."""
    bounds = np.searchsorted(bad, rows.starts)
    for i, part in enumerate(rows.parts):
        here = bad[bounds[i] : bounds[i + 1]]
        if not len(here):
            continue
        shown = [rows.number(int(row)) for row in here[:SHOWN]]
        if show:
            values = take_values(part.table.column(show), here[:SHOWN] - rows.starts[i])
            shown = [f"{name} ({_short(value)})" for name, value in zip(shown, values, strict=True)]
        more = f" and {len(here) - SHOWN:,} more" if len(here) > SHOWN else ""
        yield f"{part.name}: {count_rows(len(here))} with {fault}: {', '.join(shown)}{more}"


def check_classes(good_rows: dict[str, np.ndarray], labels: Labels) -> list[str]:
    """Warnings about classes without rows. Raises UserError for classes that cannot be learned."""
    counts = {
        split: count_classes(take(labels.targets(split), rows), len(labels.names))
        for split, rows in good_rows.items()
        if len(rows)
    }
    errors = [f"the {split} split has no rows" for split in good_rows if split not in counts]
    warnings: list[str] = []
    base = next(iter(counts), None)
    if base in ("train", "pool") and labels.has_classes:
        total = np.sum([*counts.values()], axis=0)
        errors += _not_in_training(
            np.flatnonzero((counts[base] == 0) & (total > 0)), counts, labels
        )
        if len(nowhere := np.flatnonzero(total == 0)):
            names = quote(labels.names[i] for i in nowhere)
            which = f"class {names} has" if len(nowhere) == 1 else f"classes {names} have"
            warnings.append(f"{which} no rows in any split")
        if total.max() < 2:
            errors.append(f"{labels.where}: no class has two rows ({quote(labels.names)})")
        elif np.count_nonzero(counts[base]) == 1 and not labels.arrays:
            only = labels.names[int(counts[base].argmax())]
            errors.append(f"all training rows are of one class, {quote([only])}: nothing to learn")
    if base in ("train", "pool") and labels.arrays and not errors:
        errors += _all_equal(labels.targets(base), good_rows[base], labels)
    if errors:
        raise UserError(*errors, fix=_without_marks(labels.names, counts, base))
    return warnings


def _without_marks(
    names: Sequence[str], counts: Mapping[str, np.ndarray], base: str | None
) -> dict[str, Any]:
    """The keys that leave out rows with a mark in place of a label, if training has none."""
    marks = [name for name in names if name.strip().lower() in NO_LABEL_MARKS]
    kept = [name for name in names if name not in marks]
    if not marks or base is None or len(kept) < 2:
        return {}
    trained = {name for name, n in zip(names, counts[base], strict=True) if n}
    return {"data.drop_labels": marks} if trained == {*kept} else {}


def _all_equal(targets: np.ndarray, rows: np.ndarray, labels: Labels) -> Iterator[str]:
    """A line if all training rows have the same labels, or the same numbers."""
    first = targets[rows[0]]
    if len(rows) > 1 and all((targets[rows[some]] == first).all() for some in blocks(len(rows))):
        has = quote(name for name, one in zip(labels.names, first, strict=True) if one)
        if not labels.has_classes:
            has = ", ".join(str(number) for number in first.tolist())
        kind = "label" if labels.has_classes else "number"
        what = f"the {kind}{'s' * (',' in has)} {has}" if has else f"no {kind}"
        yield f"{labels.where}: all training rows have {what}: nothing to learn"


def _not_in_training(
    classes: np.ndarray, counts: Mapping[str, np.ndarray], labels: Labels
) -> Iterator[str]:
    trained = next(iter(counts.values())) > 0
    for split, n in counts.items():
        if np.count_nonzero(n) > 1 and trained.any() and not n[trained].any():
            there, here = (quote(np.array(labels.names, object)[x]) for x in (trained, n > 0))
            fix = "data.labels with the same name for what means the same makes them equal"
            yield f"{split}: none of its labels, {here}, occurs in train, which has {there}; {fix}"
            return
    for i in classes[:SHOWN]:
        others = [f"{split} has {count_rows(int(n[i]))}" for split, n in counts.items() if n[i]]
        found = f"class {quote([labels.names[i]])} has no training rows, but"
        fix = f"data.drop_labels = {to_toml_value([labels.names[i]])} leaves these rows out"
        yield f"{found} {' and '.join(others)} of it; if it is not a class, {fix}"
    if len(classes) > SHOWN:
        yield f"{len(classes) - SHOWN:,} more classes have no training rows"


def find_repeated_texts(hashes: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Warnings about texts of other splits that occur in train: their scores are too high."""
    train = hashes.get("train", np.empty(0, np.uint64))
    for name, some in ((name, some) for name, some in hashes.items() if name != "train"):
        same = sum(_count_repeated(some[few], train) for few in blocks(len(some)))
        if same:
            found = f"{same:,} of {len(some):,} texts are in train, too"
            yield f"{name}: {found}; scores on them are too high"


def _count_repeated(few: np.ndarray, many: np.ndarray) -> int:
    # Sorts the few only: np.isin(few, many) takes 4x the time and memory
    distinct, counts = np.unique(few, return_counts=True)
    found = np.zeros(len(distinct), dtype=bool)
    for some in blocks(len(many)):
        places = np.minimum(np.searchsorted(distinct, many[some]), len(distinct) - 1)
        found[places[distinct[places] == many[some]]] = True
    return int(counts[found].sum())


def _short(label: Any) -> str:
    return repr(label) if len(repr(label)) <= QUOTED // SHOWN else shorten(label)[: QUOTED // SHOWN]
