"""From the values of a label column (numbers, words, booleans) to class indices and names."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np

from distsent.data.labels.names import (
    Naming,
    check_integers,
    check_written_lists,
    find_dropped,
    name_classes,
    name_values,
    unify_spelling,
)
from distsent.data.labels.values import NUMBER, count_labels, label_indices, quote
from distsent.data.row_arrays import row_array
from distsent.data.rows import Part, Rows, count_rows
from distsent.errors import UserError
from distsent.job.keys import to_toml_value

# In place of a class index: null, the number -1, a value that is not a class, data.drop_labels
MISSING, UNLABELED, UNKNOWN, DROPPED = -1, -2, -3, -4
# The same for lists: without a label, with one that is null or blank
EMPTY, NO_WORD = -5, -6
MAX_CLASSES = 1000
FEW = 10  # classes that may have a row or two each
# What 0 and 1 may be called
_TRUTH = {w: i for i, some in enumerate(("0 false no f n", "1 true yes t y")) for w in some.split()}
# Words that other programs write where a value is missing
_MISSING_WORDS = {"nan", "none", "null", "nil", "na", "n/a", "#n/a", "<na>"}


class Fault(NamedTuple):
    """What is wrong with the labels of some rows."""

    text: str
    column: str = ""  # whose values a message shows
    allowed_by: str = ""  # the key that allows it


class Labels(NamedTuple):
    """The labels of all rows: a class each, several, or numbers."""

    names: tuple[str, ...]  # in index order: of classes, or of numbers
    indices: dict[str, np.ndarray]  # per split, int (n,): of the class (0 if there are `arrays`);
    #                                 negative where a row has no label
    values: dict[str, str]  # the name of each value; evaluation reads other files by it
    notes: list[str]  # what the user should know, one line each
    naming: Naming  # what named the classes
    where: str  # files and column, for messages
    # per split: several labels, 0 or 1, uint8 (n, names); numbers, float64 (n, names)
    arrays: Mapping[str, np.ndarray] = {}
    faults: Mapping[int, Fault] = {}  # what further negative `indices` mean

    @property
    def has_classes(self) -> bool:
        """Whether the labels are classes, not numbers."""
        return all(array.dtype.kind != "f" for array in self.arrays.values())

    def targets(self, split: str) -> np.ndarray:
        """What a model learns of each row of the split."""
        return self.arrays.get(split, self.indices[split])


def read_labels(
    splits: dict[str, Rows], naming: Naming, fold: str | bool, dropped: Collection[str] = ()
) -> Labels:
    """The labels of all rows. Raises UserError where the names do not match the values.

    `fold` and `dropped`: data.fold_labels and data.drop_labels.
    """
    parts = [part for rows in splits.values() for part in rows.parts]
    # A file without rows need not have class names
    parts = [part for part in parts if part.table.num_rows] or parts
    column = next(iter(splits.values())).columns.label
    where = f"{name_files(parts)}: column {column!r}"
    by_names = {part.label_names: part.name for part in parts}
    if len(by_names) > 1:
        found = (
            f"{file}: {quote(names or ['none'], marks=False)}" for names, file in by_names.items()
        )
        raise UserError(f"the files name their classes differently ({'; '.join(found)})")
    if own := next(iter(by_names)) or (naming.numbered if dropped else ()):
        named = {str(number): name for number, name in enumerate(own)}
        out = find_dropped(named.items(), dropped, naming, fold, where)
        named = {number: name for number, name in named.items() if number not in out}
        classes = name_classes(named, naming, where)
        index = dict(classes.indices)
        values = {name: classes.names[index[number]] for number, name in named.items()}
        notes = [*classes.notes]
    else:
        counts = _count_values(splits, column, where)
        out = find_dropped([(word,) for word in counts], dropped, naming, fold, where)
        counts = Counter({word: n for word, n in counts.items() if word not in out})
        if not naming.names:
            _check_truth(counts, where)
            _check_marks(counts, where)
        spelling, notes = unify_spelling(counts, naming, fold, where)
        classes = name_values({spelling[word] for word in counts}, naming, where)
        index = {**classes.indices}
        index |= {w: index[one] for w, one in spelling.items() if one in classes.indices}
        values = {word: classes.names[i] for word, i in index.items()}
        odd = _missing_words({w: n for w, n in counts.items() if w not in naming.indices}, where)
        notes += [*classes.notes, *odd, *_look_like_ids(counts, spelling, where)]
        if not naming.names:
            notes += _look_like_lists(counts, where)
    codes = {"-1": UNLABELED, **index, **dict.fromkeys(out, DROPPED), "": MISSING}
    indices = {}
    for split, rows in splits.items():
        pieces = (label_indices(part, column, codes, UNKNOWN) for part in rows.parts)
        indices[split] = row_array(np.int32, chain.from_iterable(pieces))
    return Labels(classes.names, indices, values, notes, naming, where)


def name_files(parts: list[Part]) -> str:
    """The file names, for a message."""
    names = list(dict.fromkeys(part.name for part in parts))
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def _count_values(splits: dict[str, Rows], column: str, where: str) -> Counter[str]:
    """The rows of each label. A split with nothing but -1 is one without labels."""
    total: Counter[str] = Counter()
    for rows in splits.values():
        counts: Counter[str] = Counter()
        for part in rows.parts:
            counts += count_labels(part, column)
            _check_number(counts, where)
        del counts[""]
        if set(counts) != {"-1"}:
            total += counts
    _check_number(total, where)
    return total


def _check_number(values: Counter[str], where: str) -> None:
    if len(values) > MAX_CLASSES:
        check_integers(values, where)
        check_written_lists(values, where)
        found = f"{len(values):,} different values ({quote(sorted(values))})"
        raise UserError(
            f"{where} contains {found}, at most {MAX_CLASSES:,} are possible; it looks like a "
            "text or an id column: are they classes?"
        )


def _check_marks(counts: Mapping[str, int], where: str) -> None:
    """Raises UserError for labels such as "-" among words: SNLI has it where there is no label.

    And for "nan" or "NA" among numbers or truth values, and for -1 among words or truth values, as
    programs write a missing one.
    """
    marks = [word for word in counts if word.isascii() and not _is_word(word)]
    missing = [word for word in counts if word.casefold() in _MISSING_WORDS]
    others = counts.keys() - {*marks, *missing}
    numbers = bool(others) and all(map(NUMBER.fullmatch, others))
    words = others - {"-1"}
    truth = bool(words) and all(word.casefold() in _TRUTH for word in words)
    if numbers or truth:
        marks += missing
    if "-1" in counts and not numbers:
        marks.append("-1")
    marks.sort()
    if marks and any(map(_is_word, counts)):
        found = f"{count_rows(sum(counts[mark] for mark in marks))} with the label {quote(marks)}"
        keys = {"data.drop_labels": marks}, {"data.labels": sorted(counts)}
        shown = f"data.drop_labels = {to_toml_value(marks)} leaves them out"
        among = "numbers" if numbers else "truth values" if truth else "words"
        raise UserError(
            f"{where}: {found} among {among}; {shown}, data.labels with it makes it a class",
            fix=keys[0],
            others=keys[1:],
        )


def _check_truth(counts: Mapping[str, int], where: str) -> None:
    """Raises UserError for 0 and 1 beside true and false, or yes and no: four classes or two?"""
    meaning = {word: _TRUTH.get(word.casefold()) for word in sorted(counts) if word != "-1"}
    words = [word for word in meaning if word not in ("0", "1")]
    if None in meaning.values() or not 0 < len(words) < len(meaning):
        return
    names = {value: min(w for w in words if meaning[w] == value) if value in
             {meaning[w] for w in words} else str(value) for value in (0, 1)}  # fmt: skip
    table = {word: names[value] for word, value in meaning.items() if value is not None}
    raise UserError(
        f"{where} contains {quote(meaning)}, numbers and words that may mean the same: "
        f"data.labels = {to_toml_value(table)} names two classes; as classes of their own, "
        "name all of them in data.labels",
        fix={"data.labels": table},
    )


def _is_word(label: str) -> bool:
    return any(map(str.isalnum, label))


def _missing_words(counts: Mapping[str, int], where: str) -> Iterator[str]:
    """A note for each label that may mean that there is none."""
    for word, n in sorted(counts.items()):
        if word.casefold() in _MISSING_WORDS:
            found = f"{count_rows(n)} with the label {word!r}: is it a missing value?"
            yield f"{where}: {found} data.drop_labels = {to_toml_value([word])} leaves them out"


def _look_like_ids(
    counts: Mapping[str, int], spelling: Mapping[str, str], where: str
) -> Iterator[str]:
    """A note about a column with about as many values as rows."""
    rows, classes = sum(counts.values()), len({*spelling.values()})
    if classes >= FEW and 2 * classes >= rows:
        found = f"{classes:,} different values in {rows:,} rows ({quote(sorted(counts))})"
        yield f"{where}: {found} look like a text or an id column: are they classes?"


def _look_like_lists(counts: Mapping[str, int], where: str) -> Iterator[str]:
    """A note about labels that all have the same mark, if each part occurs in several of them."""
    for mark in ",;|":
        parts = Counter(part.strip() for word in counts for part in {*word.split(mark)})
        if len(counts) > 2 and all(mark in word for word in counts) and min(parts.values()) > 1:
            keys = f'data.task = "multi_label" and data.label_delimiter = "{mark}"'
            yield f"{where}: {quote(sorted(counts))}: several labels per text? {keys} read them"
