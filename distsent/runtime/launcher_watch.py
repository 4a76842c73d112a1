"""The launcher above this process: workers whose launcher is gone must not train on as orphans."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

NAMES = ("horovodrun", "mpirun", "mpiexec", "orterun", "orted", "prterun", "slurmstepd")


@cache
def launchers() -> dict[int, str]:
    """Ancestors of this process that are launchers: {process id: its start time}, so that a reused id is not mistaken.

    As they were at the first call: later, one that has died meanwhile would not be missed.
    """
    found, process = {}, os.getppid()
    while process > 1:
        status = stat(process)
        if status is None:
            break
        if any(name in command(process) for name in NAMES):
            found[process] = status[1]
        process = status[0]
    return found


def gone(known: dict[int, str]) -> bool:
    """Whether any of the launchers that were there has ended."""
    return any(
        (status := stat(process)) is None or status[1] != start for process, start in known.items()
    )


def stat(process: int) -> tuple[int, str] | None:
    """(parent, start time) of a process; None if it is no more, or only a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else (int(fields[1]), fields[19])


def command(process: int) -> str:
    """The words of a process's command line that may name a launcher: the program, and the script that it runs.

    Over MPI, what was started as horovodrun is a shell by now, `sh -c "mpirun ..."`: it is the one that gets killed.
    """
    try:
        words = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[:3]
    except OSError:
        return ""
    return " ".join(
        os.path.basename(word.split()[0].decode(errors="replace")) for word in words if word.split()
    )
