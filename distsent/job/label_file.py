"""A file that names the classes: a name a line, or a value, a tab and its name."""

import os
import re

from distsent.errors import UserError
from distsent.machine_errors import is_trouble
from distsent.storage import is_file, is_folder


def read_label_file(path: str, source: str) -> list[str] | dict[str, str]:
    """The names, or the name of each value. Raises ValueError with what is wrong.

    A relative path is relative to the current folder or to the folder of `source`.
    """
    near = source if is_folder(source) else os.path.dirname(source)
    places = [os.path.expanduser(path), os.path.join(near, path)]
    place = next(filter(is_file, places), None)
    if place is None:
        here = f"no such file, neither in {os.getcwd()} nor beside data.source"
        raise ValueError(f"{here}; the names themselves are a list, e.g. [negative,positive]")
    try:
        with open(place, encoding="utf-8-sig") as file:
            text = file.read().rstrip()
    except UnicodeDecodeError:
        raise ValueError("not UTF-8 text") from None
    except OSError as error:
        if is_trouble(error):
            raise UserError(f"data.labels: {place}: cannot be read ({error.strerror})") from error
        raise ValueError(f"cannot be read ({error.strerror})") from None
    lines = [line.strip(" \r\n") for line in text.split("\n")]
    if text.startswith(("[", "{", "<")):
        raise ValueError("JSON or XML; expected a class name a line")
    if all(re.fullmatch(r"-?\d+ *[,;:=].*", line) for line in lines):
        raise ValueError("line 1: put a tab between a value and its name")
    numbered = [bool(re.fullmatch(r"-?\d+ *[,;:=\t].*", line)) for line in lines]
    if len(lines) > 2 and numbered == [False, *[True] * (len(lines) - 1)]:
        raise ValueError("line 1: a header above values and names; leave it out")
    # A blank line would move the names behind it to other numbers
    if "" in lines:
        raise ValueError(f"line {lines.index('') + 1} is blank; expected a class name a line")
    fields = [[field.strip() for field in line.split("\t")] for line in lines]
    if {len(row) for row in fields} == {2}:
        _check([value for value, _ in fields], "value")
        _check([name for _, name in fields], "name")
        return {value: name for value, name in fields}
    _check(lines, "name")
    return lines


def _check(words: list[str], what: str) -> None:
    seen: set[str] = set()
    for number, word in enumerate(words, 1):
        if not word.isprintable() or not word or len(word) > 200:
            expected = "expected a class name a line, or a value, a tab and its name"
            raise ValueError(f"line {number}: {expected}")
        if word in seen:
            raise ValueError(f"line {number}: the {what} {word!r} occurs twice")
        seen.add(word)
    if len(seen) < 2:
        raise ValueError("expected two or more class names, one a line")
