"""Held-out splits without labels, as competitions publish them: they cannot be scored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from distsent.data.labels.values import count_labels
from distsent.data.rows import Columns, Rows, count_rows
from distsent.formats.column_choice import Column
from distsent.formats.records import first_few

Sample = Callable[[str], Iterable[tuple[str, list[Column]]]]
Found = Mapping[str, Sequence[tuple[str, list[str]]]]  # per split: (file, its columns)


def without_label_column(found: Found, columns: Columns, sample: Sample) -> dict[str, str]:
    """The splits whose files lack the label column, which training has, with a line for each.

    Other columns that training lacks must not look like classes: one may be the label under another
    name. `sample`: the columns of a split's files with some values.
    """
    trained = [names for _, names in found.get("train", ())]
    if not all(columns.label in columns.in_file(names) for names in trained):
        return {}
    known = {name for names in trained for name in names}
    return {
        split: f"{split}: not used, {first_few([file for file, _ in files])} has no label column"
        for split, files in found.items()
        if split != "train" and known
        if not any(columns.label in columns.in_file(names) for _, names in files)
        if all(names for _, names in files)
        and (
            all(known.issuperset(names) for _, names in files)
            or not any(
                c.name not in known and c.is_classes for _, some in sample(split) for c in some
            )
        )
    }


def without_labels(rows: Mapping[str, Rows], classes: Collection[str]) -> dict[str, str]:
    """The held-out splits in which no row has a label, with a line for each.

    -1 is a label only if it is one of `classes`.
    """
    empty = {""} | ({"-1"} - set(classes))
    return {
        split: f"{split}: not used, none of its {count_rows(len(some))} has a label"
        for split, some in rows.items()
        if split != "train" and len(some)
        if all(count_labels(part, some.columns.label).keys() <= empty for part in some.parts)
    }
