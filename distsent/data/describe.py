"""What files of labeled texts contain, and the keys that train on them: one screen."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from distsent.data.dataset import TextDataset, open_dataset
from distsent.data.diagnosis import with_keys
from distsent.data.labels.label_table import label_table
from distsent.data.labels.targets import summary
from distsent.errors import UserError
from distsent.formats.column_choice import (
    LABEL,
    TEXT,
    Candidate,
    Column,
    choose_columns,
    label_candidates,
    text_candidates,
)
from distsent.formats.records import printable, shorten
from distsent.formats.task_choice import suggest_task
from distsent.job.check import to_word
from distsent.job.keys import to_toml_value
from distsent.job.schema import DataSection

WIDTH = 80  # characters of examples
MOST_FILES, MOST_COLUMNS, MOST_CANDIDATES, MOST_CLASSES, MOST_PROBLEMS = 6, 16, 3, 10, 12
LONG = 300  # words of a text that few encoders read to its end


@dataclass
class Description:
    """A dataset as a user should know it. `keys`: those that `data` lacks to be trained on."""

    data: DataSection
    keys: dict[str, Any] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)  # instead of some of `keys`
    ready: bool = False

    @property
    def section(self) -> DataSection:
        return with_keys(self.data, self.keys)


def describe(data: DataSection, given: Collection[str]) -> Description:
    """Describes the dataset of a [data] section of which the keys `given` are set.

    Raises UserError for files that cannot be read.
    """
    found = Description(data)
    source = _open(found)
    found.columns = _read_columns(source, found)
    chosen: dict[str, Any] = choose_columns(found.columns, pair=True)
    if not {"data.task", "data.label_columns", LABEL} & {*given}:
        others = [c for c in found.columns if c.name not in (chosen.get(TEXT), data.text_column)]
        chosen |= suggest_task(others, chosen.get(LABEL))
    names = {column.name for column in found.columns if column.missing < column.rows}
    for key, name in chosen.items():
        value = getattr(data, key.removeprefix("data."))
        # A list in place of the default: the name of a column that is there may be another one's
        set_or_there = (value in names and "data.task" not in chosen) or key in given
        positions = key.replace("_column", "_position") in given
        if not (set_or_there or positions):
            found.keys[key] = name
    if found.section.text_column == "text" and "text" in names:
        found.keys.pop("data.pair_column", None)
    _check(found)
    found.problems += _column_problems(found)
    return found


def _open(found: Description) -> TextDataset:
    """The dataset, once keys repair what keeps its files from being read."""
    while True:
        try:
            dataset = open_dataset(found.section, seed=1)
            dataset.source.columns(dataset.source.splits[0])
            return dataset
        except UserError as error:
            if not error.fix.keys() - found.keys.keys():
                raise
            found.problems += error.lines
            found.keys |= error.fix
            found.others += error.others


def _read_columns(dataset: TextDataset, found: Description) -> list[Column]:
    """The columns of the training files with all of their values."""
    base = dataset.source.splits[0]
    columns: dict[str, Column] = {}
    for _, some in dataset.source.sample(base, None):
        for column in some:
            columns.setdefault(column.name, Column(column.name)).merge(column)
    return [*columns.values()]


def _check(found: Description) -> None:
    """Collect what is wrong, with the keys that repair it, as training would report it."""
    try:
        dataset = open_dataset(found.section, seed=1)
        found.classes = _class_counts(dataset)
        for file, read_as in dataset.read_as.items():
            found.files.append(f"{file}: {read_as.line()}")
            found.problems += (f"{file}: {note}" for note in read_as.notes)
        found.problems += [*dataset.notes, *dataset.find_warnings()]
        found.ready = True
    except UserError as error:
        found.problems += (line for line in error.lines if line not in found.problems)
        if error.fix.keys() - found.keys.keys():
            found.keys |= error.fix
            found.others += error.others
            _check(found)


def _class_counts(dataset: TextDataset) -> list[str]:
    """What each split has of each class or number, as lines of a table."""
    n = len(dataset.label_names)
    splits = {s: summary(x.labels, n) | {"rows": len(x)} for s, x in dataset.splits.items()}
    return label_table(dataset.label_names, splits)[: MOST_CLASSES + 2]


def _column_problems(found: Description) -> Iterator[str]:
    """What stands out in the values."""
    columns = {column.name: column for column in found.columns}
    text, label = columns.get(found.section.text_column), columns.get(found.section.label_column)
    if text and text.sample:
        lengths = np.array([value.count(" ") + 1 for value in text.sample])
        if share := np.mean(lengths > LONG):
            what = f"column {text.name!r}: {share:.0%} of the texts have more than {LONG} words"
            if found.section.long == "cut":
                what += "; a model reads their first data.max_length tokens, all of them with"
                yield f'{what} data.long = "windows"'
            else:
                yield f"{what}; data.long says what a model reads of them"
    if label and label.counts and found.section.task == "single_label":
        if any(re.fullmatch(r"\d+(,\d+)+", value) for value in label.counts):
            yield f"column {label.name!r} has values such as '1,2': several labels per text?"
        odd = [v for v in label.counts if v.lower() in ("-", "?", "none", "null", "nan", "n/a")]
        if odd:
            what = f"column {label.name!r}: {odd[0]!r} is a class here; does it mean: no label?"
            yield f"{what} data.drop_labels = {to_toml_value(odd[:1])} leaves these rows out"


def to_lines(found: Description, job_name: str, encoder: str) -> list[str]:
    """The screen. `encoder`: the model.name that its command trains."""
    lines = [*found.files[:MOST_FILES], ""] if found.files else []
    lines += [*_columns_table(found.columns), ""]
    lines += _candidates("text", found.section.text_column, text_candidates(found.columns))
    lines += _candidates("label", found.section.label_column, label_candidates(found.columns))
    lines += ["", *found.classes] if found.classes else []
    if problems := list(dict.fromkeys(found.problems)):
        lines += ["", "problems"]
        lines += [f"  {printable(line)}" for line in problems[:MOST_PROBLEMS]]
    return [*lines, "", *to_continue(found, job_name, encoder)]


def to_continue(found: Description, job_name: str, encoder: str) -> list[str]:
    """The command and the job file that train on the dataset."""
    keys = {"job.name": job_name, "data.source": found.data.source} | _set_keys(found.section)
    if not found.ready:
        return ["not ready to train: see the problems"]
    words = (to_word(key, value) for key, value in (keys | {"model.name": encoder}).items())
    command = " ".join(["python -m distsent.train", *words])
    body = [f"{k.removeprefix('data.')} = {to_toml_value(v)}" for k, v in keys.items()][1:]
    toml = ["[job]", f"name = {to_toml_value(job_name)}", "", "[data]", *body]
    toml += ["", "[model]", f"name = {to_toml_value(encoder)}"]
    lines = ["train it:", f"  {command}", *_alternatives(found), "", "or with a job file:"]
    return [*lines, *(f"  {line}".rstrip() for line in toml)]


def _alternatives(found: Description) -> Iterator[str]:
    """Keys that may be right in place of others: only the user knows."""
    for keys in found.others:
        words = " ".join(to_word(key, value) for key, value in keys.items())
        yield f"  or with {words}, if that is right"


def _set_keys(section: DataSection) -> dict[str, Any]:
    """The keys that differ from their defaults."""
    default = DataSection()
    return {
        f"data.{name}": value
        for name, value in vars(section).items()
        if name != "source" and value != getattr(default, name)
    }


def name_of(source: str) -> str:
    """A job name for a dataset."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(source).name.partition(".")[0]).strip("-")
    return name or "dataset"


def _columns_table(columns: Sequence[Column]) -> Iterator[str]:
    width = max([len("column"), *(min(len(column.name), 30) for column in columns)])
    yield f"{'column':{width}}  missing  examples"
    for column in columns[:MOST_COLUMNS]:
        name = printable(column.name[:30]) or '""'
        yield f"{name:{width}} {column.share_missing:>8.0%}  {_examples(column)}".rstrip()
    if len(columns) > MOST_COLUMNS:
        yield f"and {len(columns) - MOST_COLUMNS} more columns"


def _examples(column: Column) -> str:
    """Some different values, at most 80 characters together."""
    values = list(dict.fromkeys(column.sample))[:6]
    shown = ", ".join(printable(value).replace("\n", "\\n")[:WIDTH] for value in values)
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 3]}..."


def _candidates(role: str, chosen: str, candidates: Sequence[Candidate]) -> Iterator[str]:
    ranked = sorted(candidates, key=lambda one: one.name != chosen)[:MOST_CANDIDATES]
    for place, one in enumerate(ranked):
        mark = "=>" if one.name == chosen else "  "
        yield f"{role if not place else '':6}{mark} {shorten(one.name)}: {', '.join(one.reasons)}"
    if not candidates:
        yield f"{role:6}   no column looks like it"
