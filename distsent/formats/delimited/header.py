"""Whether the first record of a delimited file names the columns or is data, by all of its rows."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import eq

from distsent.errors import UserError
from distsent.formats.column_choice import LABEL, TEXT, Column, choose_columns
from distsent.formats.commands import filtered, from_row, in_pandas
from distsent.formats.compression import Source
from distsent.formats.delimited.dialect import Record
from distsent.formats.options import FileOptions
from distsent.formats.records import first_few, shorten

MARK = "\ufeff"  # where files with one were joined
NULL = r"\N"  # of MySQL
_SPLITS = {"TRAIN", "VALIDATION", "VALIDATE", "TEST", "UNASSIGNED", "train", "dev", "val", "test"}
_QUALTRICS = '{"ImportId":'
_NUMBER = re.compile(r"\s*[-+]?(\d+[.,]?\d*|[.,]\d+)(e[-+]?\d+)?\s*", re.IGNORECASE)
_LONG, _MANY_WORDS = 200, 25  # letters and words of a text; questions of surveys are shorter
_NAME_WORDS, _CLASSES = 4, 1000
FEW = 5  # rows: fewer say little about a column
SAMPLE = 500  # rows by which columns get names


class Survey:
    """What the rows say of the first record, and what the user should know of them."""

    def __init__(self, first: list[str]) -> None:
        self.first = first
        self.rows = 0
        self.repeated: tuple[int, int] | None = None  # first row (and line) equal to the record
        self.equal = Counter[int]()  # rows with its value, by column
        self.numbers: list[int] = []  # columns of numbers, also in it
        self.words: dict[int, set[str]] = {}  # values of columns with few ones
        self.unnamed = 0  # rows with values in columns without name
        self.null = 0  # rows with \N
        self.sample: list[tuple[int, list[str]]] = []  # (line, fields) of the first rows


def survey(records: Iterable[Record], first: list[str], deep: bool) -> Survey:
    """Of the records behind the first one. `deep`: also the values that columns have."""
    found, width = Survey(first), len(first)
    numbers = [c for c, value in enumerate(first) if _NUMBER.fullmatch(value)]
    unnamed = [c for c, value in enumerate(first) if c and not value.strip()]
    found.words = {c: set() for c in range(width)} if deep else {}
    for line, fields, raw in records:
        found.rows += 1
        if found.rows <= SAMPLE:
            found.sample.append((line, [*fields]))
        if any(map(eq, fields, first)):
            if fields == first or [fields[0].removeprefix(MARK), *fields[1:]] == first:
                found.repeated = found.repeated or (found.rows, line)
                continue
            found.equal.update(c for c, value in enumerate(fields[:width]) if value == first[c])
        if numbers:
            numbers = [c for c in numbers if c >= len(fields) or _NUMBER.fullmatch(fields[c])]
        if unnamed and any(fields[c].strip() for c in unnamed if c < len(fields)):
            found.unnamed += 1
        if NULL in raw[0] and NULL in fields:
            found.null += 1
        for column in [*found.words]:
            if column < len(fields):
                found.words[column].add(fields[column])
                if len(found.words[column]) > _CLASSES:
                    del found.words[column]
    found.numbers = numbers if found.rows else []
    return found


def exists(source: Source, options: FileOptions, rows: Survey) -> bool:
    """Whether the first record is a header, by all rows. Raises UserError where in doubt."""
    name = source.name
    if options.header is not False and (why := _above(source, rows)):
        raise UserError(f"{name}: {why}")
    if options.names and options.header == "auto":
        if [*map(str.strip, rows.first)] == [*map(str.strip, options.names)]:
            return True
        if why := looks_like_names(rows):
            found = first_few([*map(shorten, rows.first)])
            fix = "data.header = true replaces it by data.names, false reads it as a row"
            raise UserError(
                f"{name}: the first row ({found}) looks like a header ({why}); {fix}",
                fix={"data.header": True},
                others=[{"data.header": False}],
            )
        return False
    if options.header == "auto" and (why := looks_like_data(rows)):
        given = suggested_names(rows)
        fix = f"data.names = {shorten(given)} names the columns"
        other = "data.header = true says that it is a header"
        raise UserError(
            f"{name}: the first row looks like data ({why}): {fix}, {other}",
            fix={"data.names": given},
            others=[{"data.header": True}],
        )
    if options.header is not False and rows.repeated and len(rows.first) > 1:
        row, line = rows.repeated
        why = "repeats the header, as in joined files"
        fix = filtered(source, "awk 'NR == 1 {h = $0} NR == 1 || $0 != h'")
        raise UserError(f"{name}, row {row} (line {line}): {why}; {fix} removes such lines")
    return options.header is not False


def _above(source: Source, found: Survey) -> str:
    """What is wrong if the first record stands above the header, or others below belong to it."""
    given = [sum(map(bool, map(str.strip, fields))) for _, fields in found.sample]
    title = sum(map(bool, map(str.strip, found.first))) == 1 and found.first[0].strip()
    if title and sum(n > 1 for n in given) > len(given) / 2:
        line = next(
            line for (line, _), n in zip(found.sample, given, strict=True) if n == max(given)
        )
        why = f"the first row has nothing but {shorten(found.first[0])}, others have more"
        return f"{why}; {from_row(source, line)} leaves out what is above the header"
    if any(_QUALTRICS in value for _, fields in found.sample[:2] for value in fields):
        read = "read_csv({}, skiprows=[1, 2], dtype=str, keep_default_na=False)"
        return f"three rows of headers, as of Qualtrics; {in_pandas(source, read)} leaves one"
    return ""


def looks_like_data(found: Survey) -> str:
    """Why the first record does not name columns; empty if it may."""
    if found.first == [*map(str, range(len(found.first)))]:  # as pandas names columns
        return ""
    for column, value in enumerate(found.first):
        count = found.equal[column]
        if value.strip() and count >= max(1, found.rows / 1000):
            return f"{shorten(value)} occurs {count:,} times more in its column"
        if len(value) > _LONG or len(value.split()) > _MANY_WORDS:
            return f"{shorten(value)} is a text"
    for column in found.numbers:
        return f"its column of {found.first[column]} has numbers alone"
    return ""


def looks_like_names(found: Survey) -> str:
    """Why the first record is hardly a row of data; empty if it may be one."""
    if any(len(value.split()) > _NAME_WORDS or not value.strip() for value in found.first):
        return ""
    for column, values in found.words.items():
        name = found.first[column]
        classes = len(values) > 1 and all(map(str.strip, values)) and len(values) * 5 <= found.rows
        if found.rows >= FEW and name not in values and not found.repeated:
            if values and all(map(_NUMBER.fullmatch, values)) and not _NUMBER.fullmatch(name):
                return f"its column of {shorten(name)} has numbers alone below"
            if classes:
                return f"{shorten(name)} never occurs in its column, which has {_some(values)}"
    return ""


def suggested_names(found: Survey) -> list[str]:
    """Names for the columns of a file without header: a text, a label, others."""
    names = [f"column{i}" for i in range(len(found.first))]
    columns = [*map(Column, names)]
    for i, column in enumerate(columns):
        column.add(
            [
                row[i]
                for row in (found.first, *(fields for _, fields in found.sample))
                if i < len(row)
            ]
        )
    chosen = choose_columns([c for c in columns if not _SPLITS.issuperset(c.counts or "?")])
    longest = names[max(range(len(names)), key=lambda i: len(found.first[i]))]
    text = chosen.get(TEXT, longest)
    # Where rows are sorted by class, the first ones have one class
    repeated = [(n, names[i]) for i, n in found.equal.items() if n < found.rows]
    likely = [name for _, name in sorted(repeated, reverse=True) if name != text]
    label = chosen.get(LABEL, likely[0] if likely else "")
    meant = {text: "text", label: "label"}
    meant |= {c.name: "split" for c in columns if c.counts and _SPLITS.issuperset(c.counts)}
    return [meant.get(name, name) for name in names]


def _some(values: Sequence[str] | set[str]) -> str:
    return first_few([shorten(value) for value in sorted(values)[:6]])
