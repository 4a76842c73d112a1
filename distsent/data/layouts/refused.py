"""Layouts that are known and not read: what is there, and the command that converts it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from distsent.data.files import TableFile
from distsent.data.layouts.class_files import is_of_texts
from distsent.data.layouts.folder import Folder
from distsent.data.layouts.split_names import split_called, split_in
from distsent.errors import UserError
from distsent.formats.column_choice import text_candidates
from distsent.formats.commands import python
from distsent.formats.records import first_few
from distsent.storage import entries

END = "__eou__"  # of an utterance, in a line that is a dialogue
LINES = 20  # that are compared
ENOUGH = 10  # files that a column names, so that this is no chance
TABLES = {".csv": ",", ".tsv": "\t"}


def refuse(folder: Folder) -> None:
    """Raises UserError for such a layout."""
    _refuse_dialogues(folder)
    _refuse_texts_of_a_table(folder)


def _refuse_dialogues(folder: Folder) -> None:
    """DailyDialog: a dialogue per line, and beside it a line with a label for each utterance."""
    found = {}
    for place in folder.folders:
        files = folder.inner(place).texts if split_called(place.name) else []
        for texts in files:
            if labels := [path for path in files if path != texts and _are_labels(path, texts)]:
                found[place.name] = texts, labels
    if not found:
        return
    jobs = [
        (str(texts.relative_to(folder.path)), str(labels[-1].relative_to(folder.path)), f"{s}.csv")
        for s, (texts, labels) in found.items()
    ]
    code = (
        "import csv; [csv.writer(open(o, 'w', encoding='utf-8', newline='')).writerows("
        "[['text', 'label']] + [row for d, n in zip(open(t, encoding='utf-8'), "
        f"open(l, encoding='utf-8')) for row in zip(map(str.strip, d.split('{END}')), n.split())])"
        f" for t, l, o in {jobs}]"
    )
    first, others = next(iter(found.values()))
    names = " or ".join(folder.name(path) for path in others)
    raise folder.error(
        f"each line of {folder.name(first)} is several texts, which {END} ends, with a label for "
        f"each in {names}: not read; {command(folder, code)} writes a table for each split, "
        f"with the labels of {others[-1].name}"
    )


def _are_labels(labels: Path, texts: Path) -> bool:
    """Whether the lines have a word for each utterance of the same line."""
    pairs = [*zip(_lines(texts), _lines(labels), strict=False)]
    return bool(pairs) and all(
        0 < dialogue.count(END) == len(words.split()) for dialogue, words in pairs
    )


def _lines(path: Path) -> Iterator[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        yield from islice(file, LINES)


def _refuse_texts_of_a_table(folder: Folder) -> None:
    """The hate speech data of Stormfront: a table of labels names files, each of them a text."""
    places = [path for path in folder.folders if is_of_texts(path)]
    said = [path for path in places if split_in(path.name)]
    for table in folder.tables if places else ():
        columns = []
        with suppress(UserError):  # said where the file is read
            columns = TableFile(table, folder.name(table), folder.reading).sample()
        if table.suffix not in TABLES or text_candidates(columns):
            continue
        for column in columns:
            named = [path for path in said or places if _names_files(column.sample, path)]
            if named:
                raise folder.error(_of_a_table(folder, table, column.name, named))


def _names_files(values: Sequence[str], place: Path) -> bool:
    stems = {path.stem for path in entries(place)}
    return len(stems & {*values}) >= min(ENOUGH, len(stems), len({*values}))


def _of_a_table(folder: Folder, table: Path, column: str, places: Sequence[Path]) -> str:
    names = [path.name for path in places]
    code = (
        f"import pandas, pathlib; t = pandas.read_csv({table.name!r}, sep={TABLES[table.suffix]!r},"
        f" dtype=str); [t.assign(text=t[{column!r}].map({{p.stem: p.read_text('utf-8') for p in "
        "pathlib.Path(d).iterdir()})).dropna(subset=['text']).to_csv(d + '.new.csv', index=False) "
        f"for d in {names}]"
    )
    return (
        f"column {column!r} of {table.name} names files of {first_few(names)}, which are a text "
        f"each: not read; {command(folder, code)} writes them into a table for each folder"
    )


def command(folder: Folder, code: str) -> str:
    """Runs a line of Python in the folder."""
    return f"(cd {shlex.quote(str(folder.path))} && {python(code)})"
