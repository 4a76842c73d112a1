"""Which columns are the text and the label, by evidence: names and values."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

FEW = 10  # values that tell nothing about how often values repeat
SAMPLE = 2000  # rows whose lengths and kinds are measured
MOST_CLASSES = 1000  # a column with more values is not a label
TELLING = 0.7  # score of a name that hardly any other column has

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
    "language", "task", "annotation", "choice", "cat", "accept",
)  # fmt: skip
# Last words of columns that are about the text or the label
ASIDE = (
    "id", "ids", "index", "date", "time", "url", "link", "confidence", "gold", "count", "length",
    "user", "author", "name", "split", "number", "num", "location", "timezone", "reason", "parse",
    "created", "source", "coord", "suggestion", "prediction", "agent",
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
    def is_nested(self) -> bool:
        """Whether all values are objects or lists."""
        return bool(self.nested) and self.nested == self.rows - self.missing

    @property
    def lists(self) -> list[list[str | int]]:
        """The first values, if all are lists of words or whole numbers."""
        found = [json.loads(value) for value in self.sample] if self.is_nested else []
        fit = all(isinstance(x, list) and all(isinstance(y, str | int) for y in x) for x in found)
        return found if fit else []

    @property
    def scores(self) -> list[str]:
        """The names in the first values, if all are objects of numbers from 0 to 1."""
        found = [json.loads(value) for value in self.sample] if self.is_nested else []
        fit = all(
            isinstance(x, dict)
            and all(isinstance(y, int | float) and 0 <= y <= 1 for y in x.values())
            for x in found
        )
        return [*dict.fromkeys(name for x in found for name in x)] if fit else []

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
        if lists := self.lists:
            labels = {str(label) for some in lists for label in some}
            words = sum(label.count(" ") + 1 for label in labels) / max(1, len(labels))
            return words <= 8 and 2 <= len(labels) <= max(FEW, len(lists) / 2)
        if self.is_nested:
            return len(self.scores) > 1
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
    """The columns but those whose values are columns themselves: data beside data.text.

    Lists of words and objects of scores are one column, and not what is in them; label.0 is the
    column where each list has one value.
    """
    whole = {column.name for column in columns if len(column.scores) > 1}
    lists = {column.name: column.lists for column in columns if column.lists}
    whole |= {name for name, some in lists.items() if any(len(one) > 1 for one in some)}
    whole |= {name for name in lists if all(c.name != f"{name}.0" for c in columns)}
    inside = {c.name for c in columns for name in {*whole, *lists} if c.name.startswith(f"{name}.")}
    inside -= {f"{name}.0" for name in {*lists} - whole}
    return [
        column
        for column in columns
        if column.name not in inside
        if column.name in whole
        or not (column.nested and any(c.name.startswith(f"{column.name}.") for c in columns))
    ]


def text_candidates(columns: Sequence[Column]) -> list[Candidate]:
    """Columns that may be the text, the likeliest first. Without values names alone decide."""
    found = []
    for column in _without_outer(columns):
        name, words = name_score(column.name, TEXT_NAMES), column.words
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
        name = name_score(column.name, LABEL_NAMES)
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
        if name_score(first.name, LABEL_NAMES) < TELLING or len(found) < len(files):
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
    columns = _without_outer([*columns])
    binary = [c for c in columns if c.counts and {*c.counts} in ({"0", "1"}, {"0.0", "1.0"})]
    told = [c for c in binary if name_score(c.name, LABEL_NAMES[:10]) > 0]
    return [c.name for c in binary] if len(binary) >= 3 and not told else []


def label_score(name: str) -> float:
    """How much a name tells that a column is the label: at most 1, 0 for nothing."""
    return name_score(name, LABEL_NAMES)


def name_score(name: str, known: Sequence[str]) -> float:
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


def _gaps(column: Column) -> list[str]:
    return [f"{column.share_missing:.0%} missing"] if column.missing else []
