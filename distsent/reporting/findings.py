"""What may be wrong with the rows of a dataset: labels, and texts that occur twice.

A finding is a row with its place, its label, what is suspected of it, and a score.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from distsent.data.dataset import Split
from distsent.data.near_duplicates import first_equal, near_duplicates
from distsent.evaluation.label_errors import find_label_errors
from distsent.evaluation.tasks.task import Task
from distsent.reporting.tasks.choose import report_of

Finding = dict[str, Any]


def label_findings(
    task: Task,
    splits: Mapping[str, Split],
    held_out: Iterable[tuple[str, np.ndarray, np.ndarray]],
) -> list[Finding]:
    """Likely label errors, the likeliest first. Models are judged each by its own rows.

    `held_out`: (split, rows of it, logits) that a model was not trained on. For single_label.
    """
    findings = []
    for name, rows, logits in held_out:
        found = find_label_errors(logits, splits[name].labels[rows])
        places = zip(found.rows, found.suggested, found.scores, strict=True)
        for row, suggested, score in places:
            one = finding("label", task, splits[name], name, int(rows[row]))
            findings.append({**one, "suggested_label": task.names[suggested], "score": score})
    return sorted(findings, key=lambda one: -one["score"])


def text_findings(task: Task, splits: Mapping[str, Split]) -> Iterator[Finding]:
    """Equal texts with several labels, then near duplicates; across splits before within one."""
    rows = [(name, row) for name, split in splits.items() for row in range(len(split))]
    texts = [text for split in splits.values() for text in split.texts(slice(None))]
    pairs = [pair for split in splits.values() for pair in split.pairs(slice(None)) or ()]
    if pairs:
        texts = [f"{text}\n{pair}" for text, pair in zip(texts, pairs, strict=True)]

    def label_of(row: int) -> str:
        name, own = rows[row]
        return json.dumps(report_of(task).label(splits[name].labels[own]))

    def finding_of(row: int, other: int, index: float) -> Finding:
        (name, own), (name_of, of) = rows[row], rows[other]
        first = finding("duplicate", task, splits[name_of], name_of, of)
        place = {key: first[key] for key in ("split", "file", "row", "label")}
        one = finding("duplicate", task, splits[name], name, own)
        return one | {"score": index, "duplicate_of": place}

    first = first_equal(texts)
    duplicates, distinct = [], np.flatnonzero(first == np.arange(len(first))).tolist()
    for row, other in equal_pairs(first, label_of):
        one = finding_of(row, other, 1.0)
        suggested = one["duplicate_of"]["label"]
        if one["label"] == suggested:
            duplicates.append(one)
        else:
            yield one | {"kind": "conflict", "suggested_label": suggested}
    for row, other, index in near_duplicates([texts[row] for row in distinct]):
        duplicates.append(finding_of(distinct[row], distinct[other], index))
    duplicates.sort(key=lambda one: (one["split"] == one["duplicate_of"]["split"], -one["score"]))
    yield from duplicates


def equal_pairs(
    first: np.ndarray, label_of: Callable[[int], Hashable]
) -> Iterator[tuple[int, int]]:
    """(row, another one) for all rows with equal texts, where `first` (n,) is the first of each.

    The other one is the first with the label that most of them have.
    """
    counts = np.bincount(first, minlength=len(first))
    groups: dict[int, list[int]] = {}
    for row in np.flatnonzero(counts[first] > 1).tolist():
        groups.setdefault(int(first[row]), []).append(row)
    for group in groups.values():
        labels = [label_of(row) for row in group]
        usual, _ = Counter(labels).most_common(1)[0]
        other = group[labels.index(usual)]
        yield from ((row, other) for row in group if row != other)


def finding(kind: str, task: Task, split: Split, name: str, row: int) -> Finding:
    """What all kinds of findings say about a row: `row` of `split`, counted from 0."""
    file, number = split.source.place(int(split.rows[row]))
    text = split.texts(slice(row, row + 1))[0]
    place = {"file": file, "row": number or 1}
    label = report_of(task).label(split.labels[row])
    return {"kind": kind, "split": name, **place, "label": label} | {
        "suggested_label": None, "score": 0.0, "text": text,
    }  # fmt: skip
