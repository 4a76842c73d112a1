"""Held-out splits without labels, as competitions publish them: they cannot be scored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from distsent.data.files import Files, TableFile
from distsent.data.labels.read import has_labels
from distsent.data.rows import Columns, Rows, count_rows
from distsent.errors import UserError
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
    wanted = {*columns.of_labels}
    if not all(wanted <= {*columns.in_file(names)} for names in trained):
        return {}
    known = {name for names in trained for name in names}
    return {
        split: f"{split}: not used, {first_few([file for file, _ in files])} has no label column"
        for split, files in found.items()
        if split != "train" and known
        if not any(wanted & {*columns.in_file(names)} for _, names in files)
        if all(names for _, names in files)
        and (
            all(known.issuperset(names) for _, names in files)
            or not any(
                c.name not in known and c.is_classes for _, some in sample(split) for c in some
            )
        )
    }


def with_own_header(source: object, split: str, columns: Columns) -> str:
    """What files of a held-out split are that have a header, no label, and not data.names.

    CoLA's test.tsv is one: train.tsv has no header and other columns. Empty for others.
    """
    files = source.sources(split) if isinstance(source, Files) and split != "train" else []
    found = dict[str, str]()
    for file in files:
        if not isinstance(file, TableFile) or not file.reading.options.names:
            return ""
        options = replace(file.reading.options, names=None, header="auto")
        reading = replace(file.reading, options=options, recorded=None)
        try:
            some = TableFile(file.path, file.name, reading).sample()
        except UserError:
            return ""
        names = [column.name for column in some]
        if {*columns.of_labels} & {*names} or any(column.is_classes for column in some):
            return ""
        found[file.name] = first_few(names)
    headers = f"({'; '.join(dict.fromkeys(found.values()))})"
    return f"{first_few([*found])} has another header {headers} and no label" if found else ""


def without_labels(rows: Mapping[str, Rows], classes: Collection[str]) -> dict[str, str]:
    """The held-out splits in which no row has a label, with a line for each.

    -1 is a label only if it is one of `classes`.
    """
    return {
        split: f"{split}: not used, none of its {count_rows(len(some))} has a label"
        for split, some in rows.items()
        if split != "train" and len(some) and not has_labels(some, classes)
    }
