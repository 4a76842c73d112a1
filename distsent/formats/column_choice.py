"""Which columns are the text and the label, by evidence: names and values."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distsent.formats.records import printable

FEW = 10  # values that tell nothing about how often values repeat
SAMPLE = 2000  # rows whose lengths and kinds are measured
MOST_CLASSES = 1000  # a column with more values is not a label
TELLING = 0.7  # score of a name that hardly any other column has
LIST_WIDTH = 80  # characters of column names in a message

TEXT, PAIR, LABEL = "data.text_column", "data.pair_column", "data.label_column"
# Names that datasets give their columns, the most telling first
TEXT_NAMES = (
    "text", "sentence", "review", "tweet", "comment", "content", "document", "utterance", "message",
    "sms", "body", "post", "question", "string", "headline", "phrase", "article", "description",
    "premise", "summary", "title", "query", "abstract", "statement", "email", "news", "v2",
)  # fmt: skip
LABEL_NAMES = (
    "label", "sentiment", "class", "category", "target", "emotion", "intent", "polarity", "topic",
    "subtask", "rating", "stars", "star", "overall", "score", "quality", "toxic", "spam",
    "sarcastic", "duplicate", "coarse", "is", "y", "v1", "type", "tag", "genre", "subject",
    "language", "task",
)  # fmt: skip
# Last words of columns that are about the text or the label
ASIDE = (
    "id", "ids", "index", "date", "time", "url", "link", "confidence", "gold", "count", "length",
    "user", "author", "name", "split", "number", "num", "location", "timezone", "reason", "parse",
    "created", "source", "coord",
)  # fmt: skip
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_]+")
_FRACTION = re.compile(r"-?\d*\.\d*[1-9]\d*")


@dataclass
class Column:
    """What was seen of a column. Memory does not grow with its rows."""

    name: str
    rows: int = 0
    missing: int = 0
    nested: int = 0  # objects and lists
    counts: Counter[str] | None = field(default_factory=Counter)  # None: too many values
    sample: list[str] = field(default_factory=list)

    def add(self, values: Sequence[Any]) -> None:
        """Values of further rows."""
        given = [as_text(value) for value in values if value is not None and value != ""]
        self.rows += len(values)
        self.nested += sum(isinstance(value, list | dict) for value in values)
        self.missing += len(values) - len(given)
        self.sample += given[: SAMPLE - len(self.sample)]
        if self.counts is not None:
            self.counts.update(given)
            if len(self.counts) > MOST_CLASSES:
                self.counts = None

    def merge(self, other: Column) -> None:
        """The values of the same column of another file."""
        self.rows, self.missing = self.rows + other.rows, self.missing + other.missing
        self.nested += other.nested
        self.sample += other.sample[: SAMPLE - len(self.sample)]
        if self.counts is not None and other.counts is not None:
            self.counts.update(other.counts)
        if self.counts is None or other.counts is None or len(self.counts) > MOST_CLASSES:
            self.counts = None

    @property
    def words(self) -> float:
        """Mean number of words; six characters count as one where blanks are rare."""
        return sum(max(v.count(" ") + 1, _wide(v)) for v in self.sample) / max(1, len(self.sample))

    @property
    def share_missing(self) -> float:
        return self.missing / max(1, self.rows)

    @property
    def is_prose(self) -> bool:
        """Whether most values are longer than a word, and no two in three are equal."""
        several = sum(" " in value.strip() or _wide(value) > 1 for value in self.sample)
        varied = len({*self.sample}) > len(self.sample) / 3
        return len(self.sample) < FEW or (several > len(self.sample) / 2 and varied)

    @property
    def is_classes(self) -> bool:
        """Whether the values repeat as those of classes do; among few values: whether they may."""
        given = self.rows - self.missing
        if not self.counts or self.words > 8 or any(map(_FRACTION.fullmatch, self.counts)):
            return False
        return given < FEW or 2 <= len(self.counts) <= given / 2


@dataclass(frozen=True)
class Candidate:
    """A column that may be the text or the label, and why."""

    name: str
    score: float
    reasons: tuple[str, ...]


def as_text(value: Any) -> str:
    """A value as its label would be written."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _without_outer(columns: Sequence[Column]) -> list[Column]:
    """The columns but those whose values are columns themselves: data beside data.text."""
    return [
        column
        for column in columns
        if not (column.nested and any(c.name.startswith(f"{column.name}.") for c in columns))
    ]


def text_candidates(columns: Sequence[Column]) -> list[Candidate]:
    """Columns that may be the text, the likeliest first. Without values names alone decide."""
    found = []
    for column in _without_outer(columns):
        name, words = _name_score(column.name, TEXT_NAMES), column.words
        if column.sample and not column.is_prose:
            continue
        values = min(1.0, words / 8) * (1 - column.share_missing) if column.sample else 0.0
        if name + values > 0.2:
            reasons = [f'named "{column.name}"'] if name > 0 else []
            reasons += [f"mean length {words:.0f} words"] if column.sample else []
            found.append(Candidate(column.name, name + values, (*reasons, *_gaps(column))))
    return sorted(found, key=lambda one: -one.score)


def label_candidates(columns: Sequence[Column]) -> list[Candidate]:
    """Columns that may be the label, the likeliest first. Without values names alone decide."""
    found = []
    for column in _without_outer(columns):
        name = _name_score(column.name, LABEL_NAMES)
        if column.rows and not column.is_classes:
            continue
        distinct = len(column.counts or ())
        values = (1 - column.share_missing) / (1 + distinct / 40) if column.rows else 0.0
        if name + values > 0.2:
            reasons = [f'named "{column.name}"'] if name > 0 else []
            reasons += [f"distinct values {distinct:,} of {column.rows:,}"] if column.rows else []
            found.append(Candidate(column.name, name + values, (*reasons, *_gaps(column))))
    return sorted(found, key=lambda one: -one.score)


def is_labeled(files: Sequence[Sequence[Column]]) -> bool:
    """Whether files of one kind have a column of labels: by its name, and the same values in all.

    Fake.csv and True.csv have a column `subject`, but are the classes themselves.
    """
    for first in label_candidates(files[0]):
        found = [column for columns in files for column in columns if column.name == first.name]
        if _name_score(first.name, LABEL_NAMES) < TELLING or len(found) < len(files):
            continue
        values = [{*(column.counts or ())} for column in found]
        if len(files) == 1 or all(2 * len(some & values[0]) >= len(some) for some in values):
            return True
    return False


def choose_columns(columns: Sequence[Column], pair: bool = False) -> dict[str, str]:
    """The likeliest columns under their keys of [data]; without a key where none is likely.

    `pair`: the two texts are sought, too. Columns of 0 and 1 alone, many of them, are several
    labels a text: then there is no label.
    """
    out = {}
    texts = text_candidates(columns)
    labels = [one for one in label_candidates(columns) if one.name != (texts and texts[0].name)]
    if texts:
        out[TEXT] = texts[0].name
    if labels and not several_labels(columns):
        out[LABEL] = labels[0].name
    # The words of a text column that is named so tell more than a pair
    if pair and out.get(TEXT) != "text" and (other := second_text(texts)):
        out |= dict(zip((TEXT, PAIR), other, strict=True))
    return out


def second_text(texts: Sequence[Candidate]) -> tuple[str, str] | None:
    """The two columns of a pair of texts, such as question1 and question2, #1 String, #2 String."""
    names = [one.name for one in texts]
    for name in names:
        other = name.replace("1", "2")
        if "1" in name and other in names:
            return name, other
    return ("premise", "hypothesis") if {"premise", "hypothesis"} <= {*names} else None


def several_labels(columns: Iterable[Column]) -> list[str]:
    """The columns that together are several labels a text: three or more of 0 and 1 alone."""
    binary = [c for c in columns if c.counts and {*c.counts} in ({"0", "1"}, {"0.0", "1.0"})]
    told = [c for c in binary if _name_score(c.name, LABEL_NAMES[:10]) > 0]
    return [c.name for c in binary] if len(binary) >= 3 and not told else []


def column_errors(
    file: str, wanted: Mapping[str, str], columns: Sequence[Column]
) -> tuple[list[str], dict[str, Any]]:
    """A line for each wanted column ({option: column}) that a file lacks or has twice, and a fix.

    The fix names a column for each option that has a likely one.
    """
    found = [column.name for column in columns]
    lines, fix = list[str](), dict[str, Any]()
    there = f"there are {list_names(found)}" if found else "the file is empty"
    for option, name in wanted.items():
        if name not in found:
            used = [*wanted.values(), *fix.values()]
            keys: dict[str, Any] = meant(option, name, [c for c in columns if c.name not in used])
            likely = " and ".join(repr(close) for close in keys.values())
            hint = f"did you mean {likely}? " if keys else ""
            if option == LABEL and not keys and (several := several_labels(columns)):
                hint = f"{list_names(several)} are 0 or 1: several labels per text, read with "
                hint += 'data.task = "multi_label" and data.label_columns; '
                keys = {"data.task": "multi_label", "data.label_columns": several}
            lines.append(printable(f"{file}: no column {name!r} ({option}); {hint}{there}"))
            fix |= keys
        elif (n := found.count(name)) > 1:
            places = [str(place) for place, other in enumerate(found, 1) if other == name]
            where = f"{', '.join(places[:-1])} and {places[-1]}"
            line = f"{file}: {n} columns are called {name!r} ({option}): columns {where}"
            lines.append(f"{line}; rename them")
    return lines, fix


def meant(option: str, name: str, columns: Sequence[Column]) -> dict[str, str]:
    """The columns that were probably meant by `name`: its spelling, then evidence, then a typo.

    Where the text is one of a pair, both are meant.
    """
    plain = {_plain(column.name): column.name for column in reversed(columns)}
    if _plain(name) in plain:
        return {option: plain[_plain(name)]}
    close = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.7)
    typo = {option: plain[close[0]]} if close else {}
    known = _name_score(name, (*TEXT_NAMES, *LABEL_NAMES)) > 0
    if option == PAIR or (typo and not known):
        return typo
    likely = choose_columns(columns, pair=True)
    if option == LABEL:
        return {LABEL: likely[LABEL]} if LABEL in likely else {}
    likely.pop(LABEL, None)
    return likely or typo


def label_score(name: str) -> float:
    """How much a name tells that a column is the label: at most 1, 0 for nothing."""
    return _name_score(name, LABEL_NAMES)


def list_names(names: Sequence[str]) -> str:
    """Column names as an enumeration of at most 80 characters."""
    shown, width = list[str](), 0
    for name in (name or '""' for name in names):
        width += len(name) + 2
        if width > LIST_WIDTH and shown:
            return f"{', '.join(shown)} and {len(names) - len(shown):,} more"
        shown.append(name if len(name) <= LIST_WIDTH else f"{name[: LIST_WIDTH - 3]}...")
    return ", ".join(shown)


def _name_score(name: str, known: Sequence[str]) -> float:
    """From 1 for the name that tells most to 0 for a name that tells nothing; ASIDE is negative."""
    words = [word.lower() for word in _WORDS.findall(name) if not word.isdigit()]
    ranks = {word: 1 - place / (2 * len(known)) for place, word in enumerate(known)}
    scores = [ranks.get(word, ranks.get(word.removesuffix("s"), 0.0)) for word in words]
    if words and (words[-1] in ASIDE or "annotator" in words):
        return max(scores) / 4 - 0.3
    if name.lower() in ranks:  # such as v1
        return ranks[name.lower()]
    best = max(scores, default=0.0)
    one_of_several = 0.8 if name[-1:].isdigit() else 1.0  # label1 to label5 beside gold_label
    return one_of_several * best * (0.9 if scores and scores[-1] == best else 0.7)


def _wide(value: str) -> float:
    """Words in a value whose script has no blanks, such as Chinese: one for two characters."""
    return 0 if value.isascii() else sum(ord(c) > 0x2E7F for c in value[:200]) / 2


def _plain(name: str) -> str:
    return re.sub(r"[\W_]", "", name).lower()


def _gaps(column: Column) -> list[str]:
    return [f"{column.share_missing:.0%} missing"] if column.missing else []
