"""The attack log as a table:  python -m tests.chaos.table chaos.jsonl"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from tests.chaos.attacked_run import AttackLog

HEADINGS = (
    "system", "attack", "times", "ended by itself", "orphans", "newest checkpoint unloadable",
    "steps lost, median (most)", "seconds to the last process's end, median (most)",
    "weights equal the undisturbed run's",
)  # fmt: skip


def kind(line: Mapping[str, Any]) -> str:
    """The row that a line belongs to: all kills share one, signals have one for each phase."""
    if "attacked" in line:
        return str(line["attacked"]).removeprefix("signal while ")
    words = str(line["attack"]).split()
    return "killed" if words[0] == "kill" else words[1]


def rows(lines: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    attacks: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    runs: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        (runs if "attacked" in line else attacks)[str(line["system"]), kind(line)].append(line)
    return [format_row(*key, found, runs[key]) for key, found in attacks.items()]


def format_row(
    system: str, attack: str, found: list[Mapping[str, Any]], runs: list[Mapping[str, Any]]
) -> list[str]:
    lost, seconds = [line["lost"] for line in found], [line["seconds"] for line in found]
    equal = sum(bool(line["equal"]) for line in runs)
    phase = attack.replace("_", " ")
    return [
        system,
        "SIGKILL at a random moment" if attack == "killed" else f"signal while {phase}",
        str(len(found)),
        str(sum(line["orphans"] == 0 for line in found)),
        str(sum(line["orphans"] for line in found)),
        str(sum(bool(line["damaged"]) for line in found)),
        f"{median(lost):g} ({max(lost)})",
        f"{median(seconds):.1f} ({max(seconds):.1f})",
        f"{equal} of {len(runs)} runs",
    ]


def format_table(body: Iterable[Iterable[str]]) -> str:
    lines = [" | ".join(cells) for cells in (HEADINGS, ["---"] * len(HEADINGS), *body)]
    return "\n".join(f"| {line} |" for line in lines)


if __name__ == "__main__":
    print(format_table(rows(AttackLog(Path(sys.argv[1])).lines())))
