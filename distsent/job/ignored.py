"""Keys that would be ignored as they are written. The record of a run may still have them."""

import re
from collections.abc import Iterator, Mapping, Sequence

from distsent.job.check import Assignment, shorten
from distsent.job.rules import HUB_ID, looks_local
from distsent.job.schema import KEYS

# What says how a file is read. A dataset of the hub and the demo have none.
OF_FILES = tuple(
    f"data.{name}" for name in (
        "split_column", "format", "names", "header", "delimiter", "quoting", "escapechar",
        "encoding", "encoding_errors", "compression", "sheet_name",
    )
)  # fmt: skip


def without_old_positions(assignments: Sequence[Assignment]) -> list[Assignment]:
    """Without positions of columns that are named later, elsewhere: the name replaces them.

    A job would read the position. `assignments`: a job file's or a record's, then the command's.
    """
    kept = []
    for i, item in enumerate(assignments):
        name, is_position = re.subn("_position$", "_column", item.key)
        later = [one for one in assignments[i + 1 :] if one.origin != item.origin]
        if not (is_position and any(one.key == name for one in later)):
            kept.append(item)
    return kept


def find_ignored(
    written: Mapping[str, Assignment], job: Mapping[str, Assignment] | None
) -> Iterator[str]:
    """An error line for each key in `written` that has no effect in the `job`.

    `job`: its keys, those in `written` included; None if it reads files whatever it says.
    """
    for role in ("text", "pair", "label"):
        yield from _both(written.get(f"data.{role}_column"), written.get(f"data.{role}_position"))
    if job is not None and (reason := _no_files(job)):
        for key in OF_FILES:
            if key in written and _says_something(written[key]):
                yield written[key].error(f"applies only to files; {reason}")


def _both(name: Assignment | None, position: Assignment | None) -> Iterator[str]:
    """A column by its name and by its position: the first would be ignored."""
    if name is None or position is None or name.origin != position.origin:
        return
    if _says_something(name) and _says_something(position):
        other = f"{name.key} = {shorten(name.value)}"
        yield position.error(f"{other} says which column it is, too; leave one of them out")


def _says_something(item: Assignment) -> bool:
    """Whether the value is one that the key accepts, and not its default."""
    key = KEYS[item.key]
    return key.accepts(item.value) and key.read(item.value) not in (None, key.default)


def _no_files(job: Mapping[str, Assignment]) -> str:
    """Why a job reads no files; empty if it does, or its source is wrong anyway."""
    given = job.get("data.source")
    source = given.value if given else KEYS["data.source"].default
    # As data/dataset.py does: a path in a job begins with ./, ../, / or ~
    if not isinstance(source, str) or looks_local(source) or not HUB_ID.fullmatch(source):
        return ""
    if source == "demo":
        train = job.get("data.train")
        has_files = train is not None and train.value is not None
        return "" if has_files else 'data.source = "demo" has none; set data.source'
    return f"data.source = {shorten(source)} is none here, so it is a dataset of the hub"
