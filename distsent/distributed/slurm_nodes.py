"""The hosts of a SLURM step, from its variables alone.

scontrol tells the same, but is not on every node and in no container.
"""

import re
from collections.abc import Iterator, Mapping


def hosts_of(nodes: str) -> Iterator[str]:
    """The hosts of a SLURM node list, in order: `a[01-02,7],b` is a01, a02, a7, b."""
    for word in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", nodes):
        yield from _expand(word)


def _expand(word: str) -> Iterator[str]:
    before, bracket, rest = word.partition("[")
    if not bracket:
        yield word
        return
    numbers, _, after = rest.partition("]")
    for part in numbers.split(","):
        low, _, high = part.partition("-")
        for number in range(int(low), int(high or low) + 1):
            for end in _expand(after):
                yield f"{before}{number:0{len(low)}}{end}"


def hosts_of_tasks(env: Mapping[str, str]) -> list[str]:
    """The host of each task of this step, by rank. Empty if the variables do not tell."""
    nodes, counts = (env.get(f"SLURM_STEP_{name}", "") for name in ("NODELIST", "TASKS_PER_NODE"))
    if not nodes or not env.get("SLURM_DISTRIBUTION", "block").startswith("block"):
        return []
    tasks: list[int] = []  # of each node: `2(x3),1` is 2, 2, 2, 1
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        tasks += [int(count)] * int(times or 1)
    return [host for host, n in zip(hosts_of(nodes), tasks, strict=False) for _ in range(n)]
