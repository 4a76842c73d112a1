"""Names for the values of a label column: which class each value means."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

from distsent.data.labels.values import (
    INTEGER,
    NUMBER,
    QUOTED,
    fold,
    normalize_label,
    quote,
    written_list,
)
from distsent.data.rows import count_rows
from distsent.errors import UserError
from distsent.job.keys import to_toml_value

_NUMBERS = re.compile(r"\d+([,;|]\d+)*", re.ASCII)
SPELLING = "white space, case, Unicode form or leading zeros"


@dataclass(frozen=True)
class Naming:
    """What names the classes. Without names, each value names its own class."""

    names: tuple[str, ...] = ()  # in index order
    table: Mapping[str, str] | None = None  # the name of each value
    numbered: tuple[str, ...] = ()  # of a well-known dataset: the names of 0, 1, ...
    trained: bool = False  # the names are those of a trained model

    @classmethod
    def of_job(cls, labels: Any, numbered: Sequence[str] | None) -> "Naming":
        """By `data.labels`."""
        if isinstance(labels, Mapping):
            table = {normalize_label(value) or "": _name(name) for value, name in labels.items()}
            naming = cls(tuple(dict.fromkeys(table.values())), table)
        else:
            naming = cls(tuple(labels or ()), numbered=tuple(numbered or ()))
        if len(naming.indices) < len(labels or ()) or "" in naming.indices:
            twice = 'two of these are the same label (1, 1.0 and "1" are)'
            raise UserError(f"data.labels = {quote(labels, marks=False)}: {twice}")
        return naming

    @classmethod
    def of_model(cls, names: Sequence[str], values: Mapping[str, str] | None) -> "Naming":
        """By a trained model. `values`: the name that each value had in its training data."""
        plain = all(value == name for value, name in (values or {}).items())
        table = None if plain else {**{name: name for name in names}, **(values or {})}
        return cls(tuple(names), table, trained=True)

    @classmethod
    def of_numbers(cls, names: Sequence[str], values: Mapping[str, str] | None) -> "Naming":
        """By a trained regression. `values`: the number that each word had in its training data."""
        return cls(tuple(names), values or None, trained=True)

    @cached_property
    def indices(self) -> dict[str, int]:
        """The class of each value that has one whatever the other values are."""
        index = {name: i for i, name in enumerate(self.names)}
        if self.table is not None:
            return {value: index[name] for value, name in self.table.items() if name in index}
        return {normalize_label(name) or name: i for name, i in index.items()}


def _name(name: str | float) -> str:
    """The name of a class, or the number of a value, in a table."""
    return name if isinstance(name, str) else normalize_label(name) or ""


class Classes(NamedTuple):
    """Names in index order, the class of each value, and what the user should know."""

    names: tuple[str, ...]
    indices: Mapping[str, int]
    notes: tuple[str, ...] = ()


def unify_spelling(
    counts: Mapping[str, int], naming: Naming, wanted: str | bool, where: str
) -> tuple[dict[str, str], list[str]]:
    """The label that each label counts as, and notes. `wanted`: data.fold_labels.

    Of equal labels the one that data.labels names stays, or the most frequent one. Raises
    UserError where labels are nearly equal and the job does not say what they are.
    """
    known, groups = naming.indices, dict[str, list[str]]()
    for word in sorted({*counts, *known}):
        groups.setdefault(fold(word), []).append(word)
    similar = []
    for group in groups.values():
        group.sort(key=lambda word: (word not in known, -counts.get(word, 0), word))
        if len(group) > 1 and any(word not in known for word in group):
            similar.append(group)
    one_each = {word: word if word in known else word.strip() for word in counts}
    if not similar:
        return (one_each if wanted is True else {word: word for word in counts}), []
    shown = quote((_describe(group, counts) for group in similar), marks=False, longest=QUOTED)
    found = f"{shown} differ in {SPELLING} alone"
    if wanted == "auto":
        fix = "data.fold_labels = true makes them one class, false keeps them apart"
        raise UserError(f"{where}: {found}; {fix}", fix={"data.fold_labels": True})
    if wanted is False:
        return {word: word for word in counts}, [f"{where}: {found}; they are different classes"]
    for group in similar:
        if len({known[word] for word in group if word in known}) > 1:
            raise UserError(f"{where}: {found}; data.labels names more than one of them")
        one_each |= dict.fromkeys(group, group[0] if group[0] in known else group[0].strip())
    return one_each, [f"{where}: {found}; each counts as the first"]


def _describe(words: Sequence[str], counts: Mapping[str, int]) -> str:
    # What differs in its code points alone would look the same
    alike = len({unicodedata.normalize("NFKC", word) for word in words}) < len(words)
    names = [ascii(word) if alike else repr(word) for word in words[:2]]
    rows = [count_rows(counts[word]) if word in counts else "data.labels" for word in words]
    short = (name if len(name) <= 22 else f"{name[:19]}...'" for name in names)
    more = [f"{len(words) - 2:,} more"] if len(words) > 2 else []
    return " and ".join([*(f"{n} ({r})" for n, r in zip(short, rows, strict=False)), *more])


def name_values(values: set[str], naming: Naming, where: str) -> Classes:
    """The classes of these values. Raises UserError for values that have no certain name."""
    numbers, known = all(map(NUMBER.fullmatch, values)), naming.indices
    some = quote(sorted(values, key=_by_value) if numbers else sorted(values))
    outside = values - {*known, "-1"}
    if not naming.names:
        return _named_by_themselves(values, naming.numbered, where)
    if values and values.isdisjoint(known):
        by_number = (naming.table is None or naming.trained) and numbers
        if by_number and not any(map(NUMBER.fullmatch, known)):
            return _named_in_order(values, naming, where)
        lack = f"none of the values that data.labels names ({quote(known)}) occurs"
        how = f"; {_table(values)}" if len(values) == len(naming.names) else ""
        raise UserError(f"{where}: {lack}; it contains {some}{how}")
    if outside and numbers and (naming.table is None or naming.trained):
        what = "the model has learned" if naming.trained else "data.labels names"
        found = f"{where} contains {some}, and {what} {quote(known)} only"
        raise UserError(f"{found}; {_table(values)}")
    return Classes(naming.names, known)


def _named_by_themselves(values: set[str], numbered: tuple[str, ...], where: str) -> Classes:
    integers = all(map(INTEGER.fullmatch, values))
    if numbered and integers:
        return Classes(numbered, {str(i): i for i in range(len(numbered))})
    if integers:
        names = sorted(values - {"-1"}, key=_by_value)
    else:
        names = sorted(values)
        check_integers(values, where)
        check_written_lists(values, where)
        if lists := [(word, mark) for word in names if (mark := _lists(word, values))]:
            shown = quote(word for word, _ in lists)
            problem = f"{where} contains {shown}, which list other labels of it"
            keys = {"data.task": "multi_label", "data.label_delimiter": lists[0][1]}
            how = " and ".join(f"{key} = {to_toml_value(value)}" for key, value in keys.items())
            fix = f"{how} read several labels per text; as classes, name all of them in data.labels"
            raise UserError(f"{problem}: {fix}", fix=keys)
        several = [name for name in names if not name.isdigit()]
        if several and all(map(_NUMBERS.fullmatch, names)):
            problem = (
                f"{where} contains {quote(several)} among numbers: several labels, or decimals?"
            )
            mark = re.sub(r"\d", "", several[0])[0]
            how = f'data.task = "multi_label" and data.label_delimiter = {to_toml_value(mark)}'
            raise UserError(f"{problem} {how} read several; as classes, name all in data.labels")
    return Classes(tuple(names), {name: i for i, name in enumerate(names)})


def check_written_lists(values: Collection[str], where: str) -> None:
    """Raises UserError for labels of which some are lists of several, written as text."""
    lists = {word: some for word in values if (some := written_list(word)) is not None}
    several = [word for word, some in lists.items() if len(some) > 1]
    if not several:
        return
    keys: dict[str, Any] = {"data.task": "multi_label"}
    if plain := [word for word in values if word not in lists]:  # one label each
        marks = (mark for mark in ",;|#~" if not any(mark in word for word in plain))
        keys["data.label_delimiter"] = next(marks, "\t")
    how = " and ".join(f"{key} = {to_toml_value(value)}" for key, value in keys.items())
    how += " read" if plain else " reads"
    problem = f"{where} contains {quote(sorted(several))}, which are lists"
    fix = f"{how} several labels per text; as classes, name all of them in data.labels"
    raise UserError(f"{problem}: {fix}", fix=keys)


def check_integers(values: Collection[str], where: str) -> None:
    """Raises UserError for numbers that are no integers: they are hardly classes."""
    odd = [word for word in values if "." in word or "e" in word.lower()]
    if odd and all(map(NUMBER.fullmatch, values)):
        shown = quote(sorted(values, key=_by_value))
        problem = f"{where} contains numbers such as {min(odd)} ({shown})"
        fix = 'data.task = "regression" learns numbers; as classes, name all of them in data.labels'
        raise UserError(f"{problem}: {fix}", fix={"data.task": "regression"})


def _lists(word: str, values: set[str]) -> str:
    """What is between others that a label is made of: "joy,fear" if "joy" and "fear" are labels."""
    for mark in ",;|#+/ ":
        parts = {part.strip() for part in word.split(mark)}
        if len(parts) > 1 and parts <= values:
            return mark
    return ""


def _named_in_order(values: set[str], naming: Naming, where: str) -> Classes:
    """Numbers get names by their value: 0 to n-1, or as many numbers as names."""
    names, by_value = naming.names, sorted(values, key=_by_value)
    labeled = [value for value in by_value if value != "-1"]
    found = {Decimal(value) for value in labeled}
    places = [number for number in range(len(names)) if number in found]
    from_zero = len(places) == len(labeled) and places[:1] == [0]
    if len(by_value) == len(names) and "-1" in values:
        labeled, from_zero = by_value, False
    if not from_zero and len(labeled) != len(names):
        numbers = f"{where} contains {quote(by_value)}"
        lack = f"and data.labels has {len(names)} names ({quote(names, marks=False)})"
        raise UserError(f"{numbers} {lack}: which name is which number? {_table(labeled)}")
    index = dict(zip(labeled, places if from_zero else range(len(names)), strict=False))
    shown = quote([f"{value} = {names[i]}" for value, i in index.items()], marks=False)
    notes = () if from_zero and not naming.trained else (f"{where}: {shown}",)
    return Classes(names, index, notes)


def _by_value(number: str) -> tuple[Decimal, str]:
    return Decimal(number), number


def _table(values: Sequence[str] | set[str]) -> str:
    """How to name each value."""
    first = sorted(values)[:2]
    table = ", ".join(f'{to_toml_value(str(value)[:20])} = "..."' for value in first)
    return f"data.labels = {{ {table}, ... }} names each value"


def find_dropped(
    known: Collection[tuple[str, ...]],
    dropped: Collection[str],
    naming: Naming,
    fold_labels: str | bool,
    where: str,
) -> list[str]:
    """The values of data.drop_labels. `known`: each value, and the name of its class if it has one.

    Raises UserError for labels that do not occur: with a typing error their rows would be trained.
    """
    spell = fold if fold_labels is True else str
    there, known = quote(names[-1] for names in known), [*known, ("-1",)]
    wanted = {spell(normalize_label(label) or ""): label for label in dropped}
    found = {spell(word): value for value, *names in known for word in (value, *names)}
    lack = [label for word, label in wanted.items() if word not in found]
    near = {fold(word): word for word in found}
    alike = [(label, near[fold(label)]) for label in lack if fold(label) in near]
    both = [word for word in naming.indices if spell(word) in wanted]
    if (lack or both) and not naming.trained:
        why = f"{where} does not contain {quote(lack)}, but {there}"
        if alike:
            pairs = ", ".join(f"{label!a} and {word!a}" for label, word in alike[:3])
            why += f"; {pairs} differ in {SPELLING} alone"
        why = why if lack else f"data.labels names {quote(both)}, too"
        raise UserError(f"data.drop_labels = {to_toml_value([*dropped])}: {why}")
    return [value for value, *names in known if {spell(w) for w in (value, *names)} & {*wanted}]


def name_classes(own: Mapping[str, str], naming: Naming, where: str) -> Classes:
    """The classes of a file that has names of its own for 0, 1, ..."""
    names, index = naming.names or tuple(own.values()), naming.indices
    found = f"data.labels = {quote(names, marks=False)}: the classes are"
    own_names = list(own.values())
    if naming.table is not None:
        by_name = {number: index[name] for number, name in own.items() if name in index}
        by_number = {number: index[number] for number in own if number in index}
        table = by_name if len(by_name) == len(own) else {} if naming.trained else by_number
        if len(table) == len(own):
            return Classes(names, table)
        raise UserError(f"{where}: {found} {quote(own_names, marks=False)}")
    # The same names in another order, or all different
    different = len(own) == len(names) and not {*own_names} & {*names} and not naming.trained
    if {*own_names} != {*names} and not different:
        raise UserError(f"{where}: {found} {quote(own_names, marks=False)}")
    places = (names.index(n) if n in names else i for i, n in enumerate(own_names))
    return Classes(names, dict(zip(own, places, strict=True)))
