"""The processes of this pod."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One that lives."""

    pid: int
    parent: int
    name: str

    @property
    def environment(self) -> list[bytes]:
        try:
            return (PROC / str(self.pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # it has just ended
            return []


def processes() -> Iterator[Process]:
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                before, _, after = (folder / "stat").read_text().rpartition(")")
            except OSError:
                continue
            state, parent = after.split()[:2]
            if state != "Z":
                yield Process(int(folder.name), int(parent), before.partition("(")[2])


def below(pid: int) -> list[Process]:
    """All descendants of a process."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, todo = [], [pid]
    while todo:
        some = children.get(todo.pop(), [])
        found += some
        todo += [process.pid for process in some]
    return found
