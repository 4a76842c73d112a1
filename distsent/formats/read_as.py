"""How a file was read: detected or given, shown in one line, stored with the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

# How the values of [data] keys read in the line; "" leaves what goes without saying out.
_WORDS = {
    "delimiter": lambda mark: f"delimiter {'tab' if mark == chr(9) else repr(mark)}",
    "quoting": lambda how: {"csv": "", "none": "quotes are letters"}.get(how, f"quotes {how}"),
    "escapechar": lambda mark: f"{'backslash' if mark == chr(92) else repr(mark)} escapes",
    "encoding": lambda name: "" if name == "utf-8" else name,
    "encoding_errors": lambda how: "U+FFFD for bad bytes" if how == "replace" else "",
    "compression": lambda name: "" if name == "none" else name,
    "header": lambda there: "" if there else "no header line",
    "names": lambda names: f"columns {', '.join(names)}",
    "first_words": lambda words: "",
    "sheet_name": lambda name: f"sheet {name!r}",
}


@dataclass(frozen=True)
class ReadAs:
    """How a file was read."""

    format: str
    rows: int | None = None  # counted by the pass that detected the rest, where there was one
    options: Mapping[str, Any] = field(default_factory=dict)  # by the names of the [data] keys
    notes: tuple[str, ...] = ()  # what the user should know of the file, without its name

    def line(self) -> str:
        """As one line: "csv, delimiter ';', quotes are letters, cp1252, gzip, 2,500 rows"."""
        said = [
            _WORDS.get(key, lambda value, key=key: f"{key} {value}")(value)
            for key, value in self.options.items()
            if value is not None
        ]
        count = [] if self.rows is None else [f"{self.rows:,} row{'s' * (self.rows != 1)}"]
        return ", ".join([self.format, *filter(None, said), *count])

    def stored(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> ReadAs:
        """From the JSON."""
        return cls(**{**stored, "notes": tuple(stored["notes"])})


SHOWN = 3  # files that are read alike and still get a line each


def lines_of(files: Mapping[str, ReadAs]) -> list[str]:
    """How files were read, by their names: a line for each, and its notes; one for many alike."""
    alike: dict[str, list[str]] = {}
    for name, how in files.items():
        alike.setdefault(replace(how, rows=None, notes=()).line(), []).append(name)
    lines = []
    for names in alike.values():
        first, counts = files[names[0]], [files[name].rows for name in names]
        if len(names) > SHOWN:
            rows = None if None in counts else sum(count or 0 for count in counts)
            more = f"{names[0]} and {len(names) - 1:,} more files"
            lines.append(f"read {more} as {replace(first, rows=rows).line()}")
        else:
            lines += [f"read {name} as {files[name].line()}" for name in names]
        lines += [f"{name}: {note}" for name in names for note in files[name].notes]
    return lines
