"""The classes of a dataset as a table: rows of each class in each split."""

from collections.abc import Iterator, Mapping, Sequence

from distsent.formats.records import printable

SHOWN = 20  # classes that have a line of their own
WIDTH = 40  # characters of a name


def class_table(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[str]:
    """An aligned line per class. `counts`: of each split, the rows of each class."""
    rows = [("class", *counts), *_rows(names, counts)]
    first = max(len(row[0]) for row in rows)
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[1:]]
    lines = []
    for name, *numbers in rows:
        cells = (f"{n:>{width}}" for n, width in zip(numbers, widths, strict=True))
        lines.append("  ".join([f"{name:{first}}", *cells]))
    return lines


def _rows(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, ...]]:
    for i, name in enumerate(names[:SHOWN]):
        yield _printable(name), *(f"{n[i]:,}" for n in counts.values())
    if len(names) > SHOWN:
        rest = (f"{sum(n[SHOWN:]):,}" for n in counts.values())
        yield f"and {len(names) - SHOWN:,} more", *rest


def _printable(name: str) -> str:
    # Blanks at the ends and line ends would not be seen
    odd = name != name.strip() or not name.isprintable()
    text = printable(repr(name) if odd else name)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
