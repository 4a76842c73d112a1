"""What became of the attacks, as a table:  python -m tests.chaos.table chaos.jsonl"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.chaos.life import Record

HEAD = (
    "system", "attack", "times", "ended alone", "orphans", "newest checkpoint unloadable", "steps lost, median (most)",
    "seconds to the last process's end, median (most)", "weights as of the run let be",
)  # fmt: skip


def kind(line: Mapping[str, Any]) -> str:
    """Which row a line belongs to: all kills are one, signals go by phase."""
    if "life" in line:
        return (
            "killed" if line["life"] == "killed" else str(line["life"]).removeprefix("asked while ")
        )
    words = str(line["attack"]).split()
    return "killed" if words[0] == "kill" else words[1]


def rows(lines: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    attacks: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    lives: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        (lives if "life" in line else attacks)[str(line["system"]), kind(line)].append(line)
    out = []
    for key, found in attacks.items():
        lost, seconds, ends = (
            [line["lost"] for line in found],
            [line["seconds"] for line in found],
            lives[key],
        )
        equal = sum(bool(line["equal"]) for line in ends)
        out.append([
            key[0], "SIGKILL at a random moment" if key[1] == "killed" else f"signal while {key[1].replace('_', ' ')}",
            str(len(found)), str(sum(line["orphans"] == 0 for line in found)), str(sum(line["orphans"] for line in found)),
            str(sum(bool(line["damaged"]) for line in found)), f"{median(lost):g} ({max(lost)})",
            f"{median(seconds):.1f} ({max(seconds):.1f})", f"{equal} of {len(ends)} runs",
        ])  # fmt: skip
    return out


def table(body: Iterable[Iterable[str]]) -> str:
    lines = [" | ".join(cells) for cells in (HEAD, ["---"] * len(HEAD), *body)]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    print(table(rows(Record(Path(sys.argv[1])).lines())))
