"""The labels of a dataset as a table: rows of each class in each split, or the range of numbers."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distsent.formats.records import printable

SHOWN = 20  # classes that have a line of their own
WIDTH = 40  # characters of a name


def label_table(names: Sequence[str], splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """An aligned line per class, or per number and split. `splits`: as `targets.summary`."""
    if any("numbers" in split for split in splits.values()):
        return number_table(names, {name: split["numbers"] for name, split in splits.items()})
    rows = class_rows(names, {name: split["classes"] for name, split in splits.items()})
    if any("without" in split for split in splits.values()):
        mean = (f"{sum(s['classes']) / max(1, s['rows']):.2f}" for s in splits.values())
        rows += [("(labels per text)", *mean)]
        rows += [("(texts without label)", *(f"{s['without']:,}" for s in splits.values()))]
    return _aligned(rows)


def class_table(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[str]:
    """An aligned line per class. `counts`: of each split, the rows of each class."""
    return _aligned(class_rows(names, counts))


def class_rows(names: Sequence[str], counts: Mapping[str, Sequence[int]]) -> list[tuple[str, ...]]:
    """The cells of the table of classes."""
    return [("class", *counts), *_rows(names, counts)]


def number_table(
    names: Sequence[str], splits: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[str]:
    """An aligned line per number and split."""
    rows: list[tuple[str, ...]] = [("number", "split", *next(iter(splits.values())))]
    for i, name in enumerate(names[:SHOWN]):
        for split, numbers in splits.items():
            rows.append((_printable(name), split, *(f"{some[i]:.4g}" for some in numbers.values())))
    if len(names) > SHOWN:
        rows.append((f"and {len(names) - SHOWN:,} more", *[""] * (len(rows[0]) - 1)))
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    first = max(len(row[0]) for row in rows)
    widths = [max(map(len, column)) for column in list(zip(*rows, strict=True))[1:]]
    lines = []
    for name, *numbers in rows:
        cells = (f"{n:>{width}}" for n, width in zip(numbers, widths, strict=True))
        lines.append("  ".join([f"{name:{first}}", *cells]).rstrip())
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
